"""Batches of training pairs in an order that is a function of the seed alone.

Global batch `step` depends on (seed, step) and nothing else, so a run resumes at any step, with another number of ranks
or workers, and sees exactly what it would have seen. Memory does not grow with epochs: the order is computed place by
place, and workers live for the whole run with two batches each in hand.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.core.errors import DistillError, UsageError
from distill.core.folders.disk import SHARED
from distill.core.streams import Stream, rng
from distill.core.torch_compat import start_workers
from reinforced_data.pixels.rendering import SMALL_SIDE
from reinforced_data.sample import Batch
from reinforced_data.store.unpaired import UnpairedTexts
from reinforced_data.training.order import EpochOrder
from reinforced_data.training.pairs import Pair, Pairs

if TYPE_CHECKING:
    from torch import Tensor

Tokenize = Callable[[list[str]], "Tensor"]  # n texts -> LongTensor [n, L]
MOST, MOST_WITH_GPU = 8, 16  # workers that "auto" gives a process
SHARE_OF_SHARED = 0.8  # of the memory that processes share, which batches may fill
AHEAD = 2  # batches that each worker makes before they are asked for


class _Failed:
    """What a worker sends instead of a batch: exceptions of our own do not survive torch's re-raising."""

    def __init__(self, message: str) -> None:
        self.message = message


class _Steps:
    """Step number -> this rank's part of the global batch. A map-style data set for torch's DataLoader."""

    def __init__(
        self, pairs: Pairs, batch_size: int, seed: int, rank: int, world: int, tokenize: "Tokenize | None" = None
    ) -> None:
        self._pairs, self._seed, self._tokenize = pairs, seed, tokenize
        self._batch_size, self._part = batch_size, batch_size // world
        self._first = rank * self._part
        self._order: tuple[int, EpochOrder] | None = None
        self._unpaired = pairs.unpaired
        self.at: Tensor | None = None  # [workers] int64, shared: the sample that each worker is at, for messages

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, len(self._pairs) // self._batch_size)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, EpochOrder(self._seed, epoch, len(self._pairs)))
        start = place * self._batch_size + self._first
        batch = collate([self._pair(epoch, int(i)) for i in self._order[1].samples(start, start + self._part)])
        if self._unpaired is not None:
            batch = self._with_unpaired(batch, self._unpaired, step)
        if self._tokenize is not None:
            batch.tokens = self._tokenize(batch.texts)
        return batch

    def _with_unpaired(self, batch: Batch, unpaired: UnpairedTexts, step: int) -> Batch:
        """As many texts as pairs, each once before any comes again, whatever the size of a batch."""
        import torch

        place, numbers = step * self._batch_size + self._first, []
        last = place + self._part
        while place < last:
            epoch, start = divmod(place, len(unpaired))
            stop = min(len(unpaired), start + last - place)
            numbers.append(EpochOrder(self._seed, epoch, len(unpaired)).samples(start, stop))
            place += stop - start
        rows = np.concatenate(numbers)
        batch.texts += [unpaired.texts[int(row)] for row in rows]
        for name, captions in batch.teacher_text.items():
            batch.teacher_text[name] = torch.cat([captions, torch.from_numpy(unpaired.embeds(name, rows))])
        batch.unpaired = len(rows)
        return batch

    def _pair(self, epoch: int, index: int) -> Pair:
        if self.at is not None:
            from torch.utils.data import get_worker_info

            worker = get_worker_info()
            if worker is not None:
                self.at[worker.id] = index
        try:
            return self._pairs.pair(index, rng(Stream.PAIRS, self._seed, epoch, index))
        except (DistillError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise DistillError(
                f"Sample {self.name(index)} could not be made ready for training ({type(error).__name__}: {error})."
            ) from error

    def name(self, index: int) -> str:
        """What messages call sample `index`: its key where it can be read."""
        try:
            return repr(self._pairs.key(index))
        except Exception:
            return f"number {index}"


class _Guarded:
    """`_Steps` as workers run it: failures come back as `_Failed`."""

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __getitem__(self, step: int) -> "Batch | _Failed":
        try:
            return self._steps[step]
        except Exception as error:
            return _Failed(str(error))


def collate(pairs: list[Pair]) -> Batch:
    """b pairs as one batch: images [b, 3, S, S] uint8; texts and their embeddings by stream, see `Batch`."""
    import torch

    streams = range(len(pairs[0].texts))
    return Batch(
        images=torch.from_numpy(np.stack([pair.image for pair in pairs])).permute(0, 3, 1, 2),
        texts=[pair.texts[stream] for stream in streams for pair in pairs],
        teacher_image={
            name: torch.from_numpy(np.stack([pair.teacher_image[name] for pair in pairs]))
            for name in pairs[0].teacher_image
        },
        teacher_text={
            name: torch.from_numpy(np.stack([pair.teacher_text[name][stream] for stream in streams for pair in pairs]))
            for name in pairs[0].teacher_text
        },
        keys=[pair.key for pair in pairs],
        image_ids=torch.tensor([pair.image_id for pair in pairs], dtype=torch.int64),
    )


def enough_workers(
    pairs: Pairs, cores: int, processes: int, gpu: bool, batch: int = 0, shared_bytes: float = math.inf
) -> tuple[int, str]:
    """(how many workers each training process should have, why).

    Args:
        cores: that the training may use on this machine. processes: that train on it.
        gpu: whether they train on one; the cores are then for the workers, and a step is short.
        batch: pairs of a process's batch.
        shared_bytes: free shared memory, through which workers hand over what they make; a container may have 64 MB of it.
    """
    if pairs.side() <= SMALL_SIDE:
        return 0, f"images of at most {SMALL_SIDE} pixels are kept decoded, and a thread keeps up"
    most = MOST_WITH_GPU if gpu else MOST
    workers = min(most, max(0, cores // processes - 1))
    shared = f" for {processes} processes" if processes > 1 else ""
    in_hand = (AHEAD + 1) * batch * 3 * pairs.image_size**2  # of a worker, with the one that is handed over
    room = SHARE_OF_SHARED * shared_bytes / processes
    if workers * in_hand > room:
        fit = int(room / in_hand)
        return fit, (
            f"{shared_bytes / 1e6:.0f} MB of shared memory ({SHARED}) hold no more, at {in_hand / 1e6:.0f} MB a worker; a "
            "container gets more by --shm-size"
        )
    return workers, f"{cores} cores{shared}, one of them for training, {most} at most"


def batches(
    pairs: Pairs,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    tokenize: "Tokenize | None" = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """This rank's batches of the steps first_step <= step < last_step.

    Each epoch visits every sample once in the order of `EpochOrder`; an incomplete last batch is dropped.

    Args:
        batch_size: B, over all ranks; rank r takes the r-th of `world` equal parts.
        workers: processes that make batches ahead; 0 = a thread of this one makes one ahead. The batches are the same.
        tokenize: what the batches' tokens are made by, where they are made; it is pickled for workers that are not forked.
        pin_memory: have a thread pin what workers make, for a CUDA device.

    Raises:
        UsageError: the set is smaller than one batch, or the batch does not divide among the ranks.
        DistillError: a sample cannot be used, or a worker died; names the sample.
    """
    if batch_size < 1 or world < 1 or batch_size % world or not 0 <= rank < world:
        raise UsageError(f"A global batch of {batch_size} does not divide among {world} ranks (this is rank {rank}).")
    if len(pairs) < batch_size:
        raise UsageError(
            f"The set has {len(pairs)} samples, fewer than one batch of {batch_size}. Give more, or a smaller batch."
        )
    steps = _Steps(pairs, batch_size, seed, rank, world, tokenize)
    if workers == 0:
        return _one_ahead(steps, range(first_step, last_step))
    return _from_workers(steps, range(first_step, last_step), workers, pin_memory)


def _one_ahead(steps: _Steps, numbers: range) -> Iterator[Batch]:
    """The batches of `numbers`, the next one made in a thread while the caller works on the one before."""
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        coming: Future[Batch] | None = None
        for number in numbers:
            following = pool.submit(steps.__getitem__, number)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def _begin_worker(_: int) -> None:
    # Tokenizers of Hugging Face start threads, which after a fork would wait for each other; the workers are the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _from_workers(steps: _Steps, numbers: range, workers: int, pin_memory: bool = False) -> Iterator[Batch]:
    import torch
    from torch.utils.data import DataLoader

    if not numbers:
        return
    steps.at = torch.full((workers,), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
    # A "sample" of this loader is a whole batch, so its order and content are those of the steps.
    loader: Any = DataLoader(
        _Guarded(steps),  # type: ignore[arg-type]
        batch_size=None,
        sampler=numbers,
        num_workers=min(workers, len(numbers)),
        prefetch_factor=AHEAD,
        worker_init_fn=_begin_worker,
        pin_memory=pin_memory,
    )
    source = start_workers(loader)
    for _ in numbers:
        try:
            batch = next(source)
        except (RuntimeError, OSError, EOFError) as error:  # the last two: it died with a batch half handed over
            raise DistillError(_death_of_worker(steps, source, str(error))) from error
        if isinstance(batch, _Failed):
            raise DistillError(batch.message)
        yield batch


def _death_of_worker(steps: _Steps, source: Any, words: str) -> str:
    """The message for a worker process that died: how it ended and which sample it was at."""
    import time

    dead: list[tuple[int, int]] = []
    for _ in range(20):  # a connection breaks a moment before the system reports the death
        dead = [(n, worker.exitcode) for n, worker in enumerate(source._workers) if worker.exitcode not in (None, 0)]
        if dead:
            break
        time.sleep(0.1)
    at = [int(steps.at[n]) for n, _ in dead] if steps.at is not None else []
    names = ", ".join(steps.name(index) for index in at if index >= 0)
    how = ", ".join(f"signal {-code}" if code < 0 else f"exit status {code}" for _, code in dead)
    return (
        f"A data loading worker died ({how or words or 'it says nothing'})"
        + (f" while at sample {names}" if names else "")
        + ". Signal 9 is mostly the system running out of memory: lower train.workers or train.batch_size. Signal 7 is mostly "
        f"shared memory ({SHARED}) running out: the same helps, or a container with more of it (--shm-size). Anything "
        "else points at that sample's image. Call again with --resume to go on."
    )

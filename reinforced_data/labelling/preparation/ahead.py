"""`prepared`: samples made ready ahead of the models, by threads of this process or by processes, in their order.

Threads share the interpreter, of which Pillow, libjpeg-turbo and torch let go while they work; what is left of Python (about
a third of the time of views with RandAugment) bounds how many of them help. Processes have no such bound and cost memory
each. Either way the samples, their order and their bytes are the same.

A process gets its samples several at a time and gives them back as one pickle, whose arrays lie in memory that it shares with
this process, so that pixels are not sent through a pipe.
"""

import pickle
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError
from distill.core.folders.disk import free_shared_bytes
from distill.core.machine import free_memory_bytes, usable_cores
from distill.core.torch_compat import start_workers
from reinforced_data.labelling.preparation.prepare import Preparation, Prepared
from reinforced_data.store.manifest import Rejected

if TYPE_CHECKING:
    from torch import Tensor

_MOST_THREADS = 8
_MOST_PROCESSES = 16
_INSTEAD_OF_THREADS = 2  # so many threads have the interpreter to themselves often enough
_MEMORY_SHARE = 1 / 8  # of what is free may be taken by pixels that wait for the models
_MOST_TOGETHER = 16  # samples that a process prepares at a time

Ready = Prepared | Rejected
Samples = Generator[Ready, None, None]


def prepared(preparation: Preparation, indices: Iterable[int], workers: int = 0) -> Samples:
    """The samples of `indices`, in that order, a bounded number ahead of the caller.

    Args:
        indices: of the source; asked for one by one, as far ahead as samples are prepared.
        workers: processes that prepare them; 0 = threads of this one.

    Raises:
        DistillError: a process died, or a sample made it fail. What reading a source raises, from threads.
    """
    if workers:
        return _by_processes(preparation, indices, workers)
    return _by_threads(preparation, indices)


def enough_workers(cores: int, processes: int, *, gpu: bool) -> tuple[int, str]:
    """(how many processes each labelling process should have prepare its samples, why).

    Args:
        cores: that may be used on this machine. processes: that label on it.
        gpu: whether the models run on one. Where they do not, arithmetic takes all cores, and threads keep up.
    """
    import multiprocessing

    if not gpu:
        return 0, "threads keep up with models that run on the processor"
    if multiprocessing.current_process().daemon:
        return 0, "threads, because this process may start no others"
    workers = min(_MOST_PROCESSES, cores // processes - 1)
    shared = f"{cores} cores for {processes} process{'es' * (processes > 1)}"
    if workers <= _INSTEAD_OF_THREADS:
        return 0, f"threads, because {shared} leave too few"
    return workers, f"{shared}, one each for its models, {_MOST_PROCESSES} at most"


def depth(preparation: Preparation, at_once: int, free_bytes: int | None = None) -> int:
    """How many samples are prepared before the models are ready for them.

    Enough views for two forwards of a batch, so that the models need not wait for one that is slow to decode; fewer where
    their pixels would take more than a share of the free memory, but `at_once` at least.

    Args:
        at_once: how many are prepared at a time.
        free_bytes: None = what the system says is free.
    """
    plan = preparation.plan
    free = free_memory_bytes() if free_bytes is None else free_bytes
    wanted = at_once + 2 * -(-plan.batch_size // plan.views_per_image)
    return max(at_once, min(wanted, int(_MEMORY_SHARE * free) // preparation.pixel_bytes))


def _by_threads(preparation: Preparation, indices: Iterable[int]) -> Samples:
    threads = min(_MOST_THREADS, usable_cores())
    most = depth(preparation, threads)
    waiting: deque[Future[Ready]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for index in indices:
                found = preparation.read(index)  # in this thread: sources need not be safe in threads
                if isinstance(found, Rejected):
                    known: Future[Ready] = Future()
                    known.set_result(found)
                    waiting.append(known)  # in its turn, so that results stay in order
                else:
                    waiting.append(pool.submit(preparation.prepare, *found, index))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


# --- processes ---


@dataclass(frozen=True)
class _Failed:
    """What a process sends instead of samples: exceptions of our own do not survive torch's re-raising."""

    message: str


class _Packed:
    """Samples as one pickle and their arrays, one after the other, in shared memory."""

    def __init__(self, samples: Sequence[Ready]) -> None:
        import numpy as np
        import torch

        buffers: list[pickle.PickleBuffer] = []
        self._plain = pickle.dumps(samples, protocol=5, buffer_callback=buffers.append)
        raw = [buffer.raw() for buffer in buffers]
        self._sizes = [view.nbytes for view in raw]
        self._arrays: Tensor = torch.empty(sum(self._sizes), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        place, into = 0, self._arrays.numpy()
        for view in raw:
            into[place : place + view.nbytes] = np.frombuffer(view, np.uint8)
            place += view.nbytes

    def samples(self) -> list[Ready]:
        """What was packed; its arrays lie where they were put."""
        place, views, memory = 0, [], self._arrays.numpy().data
        for size in self._sizes:
            views.append(memory[place : place + size])
            place += size
        found: list[Ready] = pickle.loads(self._plain, buffers=views)  # what a process of our own sent
        return found


class _Together:
    """Numbers of samples -> those samples, packed. A map-style data set for torch's DataLoader."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation

    def __getitem__(self, indices: Sequence[int]) -> "_Packed | _Failed":
        at = -1
        try:
            samples: list[Ready] = []
            for at in indices:
                found = self._preparation.read(at)
                samples.append(found if isinstance(found, Rejected) else self._preparation.prepare(*found, at))
            return _Packed(samples)
        except Exception as error:
            words = str(error) if isinstance(error, DistillError) else f"{type(error).__name__}: {error}"
            return _Failed(f"Sample {at} of the data could not be made ready for the models ({words}).")


def _together(indices: Iterable[int], count: int) -> Iterator[list[int]]:
    several = iter(indices)
    while some := list(islice(several, count)):
        yield some


def _begin_process(_: int) -> None:
    # Ctrl-C reaches every process of a terminal. This one's end is told by the main one, which waits for it to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _by_processes(preparation: Preparation, indices: Iterable[int], workers: int) -> Samples:
    from torch.utils.data import DataLoader

    most = depth(preparation, workers, int(min(free_memory_bytes(), free_shared_bytes())))
    together = max(1, min(_MOST_TOGETHER, most // (2 * workers)))
    loader: Any = DataLoader(
        _Together(preparation),  # type: ignore[arg-type]
        batch_size=None,
        sampler=_together(indices, together),
        num_workers=workers,
        prefetch_factor=max(1, most // (workers * together)),
        worker_init_fn=_begin_process,
    )
    source = start_workers(loader)
    while True:
        try:
            packed = next(source)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            raise DistillError(_death(str(error))) from error
        if isinstance(packed, _Failed):
            raise DistillError(packed.message)
        yield from packed.samples()


def _death(words: str) -> str:
    return (
        f"A process that prepares images died ({words.splitlines()[0] if words else 'it says nothing'}). Signal 9 is mostly "
        "the system running out of memory, a bus error too little of it in /dev/shm: lower reinforce.workers (0 = threads). "
        "Call again with --resume: finished shards are kept."
    )

"""Running datatrove's tasks so that a worker that dies is noticed and its task done again.

datatrove's own local and Ray executors run each task in a pool of Python's multiprocessing, which waits for ever for a
worker that was killed (kill -9, no memory). Marks, logs and ranks stay datatrove's; only who runs a rank is ours.
"""

import contextlib
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from distill.core.errors import DistillError
from reinforced_data.labelling.cluster.resources import Resources, request
from reinforced_data.labelling.settings import ClusterSettings

TRIES = 3  # of one task whose workers die
_LOOK_EVERY_S = 10.0
_QUIET = 1  # a "local rank" of datatrove's other than 0: what the task says goes to its log file, errors apart


class Deaths:
    """Counts how often the worker of each rank died."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, rank: int, how: str) -> None:
        """Raise DistillError when the rank's worker has died too often."""
        self._counts[rank] += 1
        if self._counts[rank] >= TRIES:
            raise DistillError(
                f"the worker of task {rank} died {TRIES} times ({how}). Mostly that is the system running out of memory: fewer "
                "--workers, or a smaller reinforce.batch_size"
            )


def run_local(executor: Any, workers: int, look: Callable[[], None] = lambda: None) -> None:
    """Run every rank of a LocalPipelineExecutor that is not marked, each in a process of its own, `workers` at a time;
    a single worker is this process.

    Args:
        look: called every ten seconds or oftener while they run.

    Raises DistillError when a task failed or its process died too often; the others are ended then.
    """
    if workers == 1:
        for rank in executor.get_incomplete_ranks():
            executor._run_for_rank(rank, _QUIET)
            look()
        return
    import multiprocess
    from multiprocess.connection import wait

    context = multiprocess.get_context(executor.start_method)
    waiting, deaths = deque(executor.get_incomplete_ranks()), Deaths()
    running: dict[int, tuple[int, Any, Any]] = {}  # the process's sentinel -> rank, process, pipe of its last words
    ended, alive = context.Pipe(
        duplex=False
    )  # `alive` is ours alone: it closes when this process is gone, however it went
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                rank = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_run_rank, args=(executor, rank, theirs, ended))
                process.start()
                theirs.close()
                running[process.sentinel] = (rank, process, ours)
            ready = wait(list(running), timeout=_LOOK_EVERY_S)
            look()
            for sentinel in ready:
                rank, process, ours = running.pop(sentinel)
                process.join()
                if process.exitcode != 0:
                    _last_words(ours, rank)
                    deaths.add(rank, _how(process.exitcode))
                    waiting.append(rank)
                ours.close()
    finally:
        for _, process, ours in running.values():
            process.terminate()
            process.join()
            ours.close()
        alive.close()
        ended.close()


def _run_rank(executor: Any, rank: int, words: Any, ended: Any) -> None:
    """In the process of a task: run it, and send what went wrong. It ends with the process that began it."""
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that began us; it ends us
    try:
        executor._run_for_rank(rank, _QUIET)  # what datatrove's own pool calls
    except Exception as error:
        words.send(f"{type(error).__name__}: {error}"[:2000])
        raise SystemExit(1) from None


def _end_with(ended: Any) -> None:
    """End this process when `ended` is closed at its other end: nobody waits for the task, and a resumed call does it too."""
    with contextlib.suppress(EOFError, OSError):
        ended.recv()
    os._exit(1)


def _last_words(words: Any, rank: int) -> None:
    """Raise DistillError when a task said what went wrong; one that was killed says nothing."""
    try:
        text = words.recv() if words.poll() else None
    except EOFError:
        return
    if text is not None:
        raise DistillError(f"task {rank}: {text}")


def _how(exitcode: int) -> str:
    if exitcode >= 0:
        return f"exit status {exitcode}"
    try:
        return f"{signal.Signals(-exitcode).name}"
    except ValueError:
        return f"signal {-exitcode}"


def ray_nodes() -> list[Resources]:
    """The nodes that the Ray cluster has now; joins it, or starts one on this machine where there is none."""
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False)  # tasks have log files
    return [
        Resources(node["Resources"].get("CPU", 0.0), node["Resources"].get("memory", 0.0) / 2**30,
                  node["Resources"].get("GPU", 0.0))
        for node in ray.nodes() if node["Alive"]
    ]  # fmt: skip


def run_ray(
    executor: Any, settings: ClusterSettings, asked: Resources, look: Callable[[], None] = lambda: None
) -> None:
    """Run every rank of a RayPipelineExecutor that is not marked as a Ray task, `settings.workers` at a time.

    Args:
        asked: what a task asks for.
        look: called every ten seconds or oftener while they run.

    Raises:
        DistillError: a task failed, or its worker died too often.
        UsageError: the nodes that could run a task have left the cluster.
    """
    import ray

    # No retries by Ray: those after a lack of memory would never end.
    remote = ray.remote(num_cpus=asked.cpus, num_gpus=asked.gpus, memory=int(asked.memory_gb * 2**30), max_retries=0)(
        _run_ray_rank
    )
    waiting, deaths = deque(executor.get_incomplete_ranks()), Deaths()
    shared = ray.put(executor)
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < settings.workers:
                rank = waiting.popleft()
                running[remote.remote(shared, rank)] = rank
            done, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY_S)
            look()
            for reference in done:
                rank = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise DistillError(f"task {rank}: {error.cause}") from error
                except ray.exceptions.RayError as error:  # its worker or its node is gone
                    deaths.add(rank, type(error).__name__)
                    waiting.append(rank)
            if not done:
                request(settings, ray_nodes())  # a node may have left, and a task would wait for ever
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _run_ray_rank(executor: Any, rank: int) -> None:
    executor._run_for_rank(rank, _QUIET)

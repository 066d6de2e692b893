"""`run_tasks`: one function, run for every rank of a world, by datatrove's executors: local processes, Slurm, Ray.

Chosen over Ray Data because the work is already cut into files that any process can check by itself, so that nothing
has to pass between tasks: what is needed is an array of jobs, a mark per finished task and a rerun of the others, which
is what datatrove's executors are, on Slurm (an array job that requeues itself when a node is taken away), on Ray and on
one machine alike. Ray Data streams blocks through actors, which our shards do not need, and wants a Ray cluster even on
a Slurm site. datatrove adds itself, loguru and humanize to what is installed anyway; Ray alone is a file of 78 MB.

The set's shards are the truth, not the marks: when all tasks are marked and shards are missing, the marks are removed
and the tasks run again. A worker that dies has its task done again (`workers`; Slurm does so itself), and what tasks ask
for is fitted to the nodes (`resources`). Left out: queues, leases and heartbeats of our own, and data that lies on no
shared disk.
"""

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError, UsageError
from reinforced_data.labelling.cluster.resources import Resources, request, slurm_nodes
from reinforced_data.labelling.cluster.workers import ray_nodes, run_local, run_ray
from reinforced_data.labelling.settings import ClusterSettings

Task = Callable[[int, int], object]  # task(rank, world); pickled, so a module's function or a partial of one


@dataclass(frozen=True, repr=False)
class _Step:
    """A datatrove pipeline step that takes and gives no documents."""

    task: Task

    def __repr__(self) -> str:
        """What datatrove's logs call it; a task's own would be the whole recipe."""
        return "label a share of the shards"

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Run the task for `rank`."""
        self.task(rank, world_size)


def run_tasks(
    task: Task,
    settings: ClusterSettings,
    logs: Path,
    *,
    finished: Callable[[], bool],
    look: Callable[[], None] = lambda: None,
) -> bool:
    """Run `task(rank, world)` for every rank that has not ended well yet.

    Args:
        task: must itself skip what is done.
        settings: of the executor; not "none".
        logs: folder on a disk that all machines share; holds logs and the marks of finished tasks, by world.
        finished: whether the work as a whole is done; asked after the tasks.
        look: called every ten seconds or oftener while tasks run here or on Ray, to say how far they are.

    Returns:
        True when it is; False when Slurm has taken the job and will do it.

    Raises:
        UsageError: the extra `cluster` is not installed, what the executor needs is not said, or no node has what a task asks for.
        DistillError: a task failed.
    """
    require_packages(settings)
    folder = logs / f"{settings.executor}-{settings.tasks}"
    for _ in range(2):
        asked = _request(settings)
        executor = _executor(task, settings, asked, folder)
        _launch(executor, settings, asked, folder, look)
        if settings.executor == "slurm" and executor.job_id != -1:  # -1: every task is marked
            return False
        if finished():
            return True
        if executor.get_incomplete_ranks(skip_completed=True):
            break
        shutil.rmtree(folder / "completions")  # marks of work that has since been removed
    raise DistillError(
        f"Not all tasks have ended well; their logs are in {str(folder / 'logs')!r}. Call again with --resume: only "
        "what is missing is done."
    )


def require_packages(settings: ClusterSettings) -> None:
    """Raise UsageError when what the executor needs is not installed or not said; for before anything is loaded."""
    if settings.executor == "slurm" and not settings.slurm_partition:
        raise UsageError("Slurm needs the name of a partition: --slurm-partition NAME. `sinfo` lists them.")
    wanted = {"none": (), "ray": ("datatrove", "ray")}.get(settings.executor, ("datatrove",))
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--executor {settings.executor} needs {' and '.join(missing)}: pip install 'distill-edge[cluster]'. Without it, one "
            "process does the work, or several under accelerate launch."
        )
    if settings.executor == "slurm" and shutil.which("sbatch") is None:
        raise UsageError("--executor slurm needs `sbatch`, which is not here. Call it on a node that submits jobs.")


def _request(settings: ClusterSettings) -> Resources:
    """What a task asks for, fitted to the nodes where they can be asked."""
    nodes = []
    if settings.executor == "ray":
        try:
            nodes = ray_nodes()
        except ImportError as error:
            raise UsageError(f"--executor ray needs ray ({error}): pip install 'distill-edge[cluster]'.") from None
    elif settings.executor == "slurm" and settings.slurm_partition:
        nodes = slurm_nodes(settings.slurm_partition)
    return request(settings, nodes)


def _launch(executor: Any, settings: ClusterSettings, asked: Resources, folder: Path, look: Callable[[], None]) -> None:
    try:
        if settings.executor == "ray":
            run_ray(executor, settings, asked, look)
        elif settings.executor == "local":
            run_local(executor, settings.workers, look)
        else:
            executor.run()
    except UsageError:
        raise
    except Exception as error:  # whatever the executor wraps the task's failure in, the person needs one paragraph
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DistillError(
            f"The tasks broke off ({reason}); their logs are in {str(folder / 'logs')!r}. Mend the cause and call again with "
            "--resume: only what is missing is done."
        ) from error


def _executor(task: Task, settings: ClusterSettings, per_task: Resources, folder: Path) -> Any:
    try:
        from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
    except ImportError as error:
        raise UsageError(
            f"Running on an executor needs datatrove ({error}): pip install 'distill-edge[cluster]'. Without it, one "
            "process does the work, or several under accelerate launch."
        ) from None
    common = {
        "pipeline": [_Step(task)],
        "tasks": settings.tasks,
        "workers": settings.workers,
        "logging_dir": str(folder),
    }
    if settings.executor == "local":
        return LocalPipelineExecutor(**common)
    asked: dict[str, int] = {
        "cpus_per_task": int(per_task.cpus),
        "mem_per_cpu_gb": max(1, int(per_task.memory_gb / per_task.cpus)),  # Slurm takes whole ones
        "gpus_per_task": settings.gpus_per_task,
    }
    if settings.executor == "ray":
        return RayPipelineExecutor(**common, **asked)
    return SlurmPipelineExecutor(
        **common,
        **asked,
        time=settings.slurm_time,
        partition=settings.slurm_partition,
        env_command=settings.slurm_env or None,
        job_name="distill-reinforce",
        mail_type="NONE",
    )

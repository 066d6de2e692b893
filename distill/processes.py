"""Which of the processes that share a job is this one? Read from what launchers set; nothing is initialised.

`accelerate launch` and torchrun set RANK, WORLD_SIZE and LOCAL_RANK; Slurm's srun sets SLURM_PROCID, SLURM_NTASKS and
SLURM_LOCALID. Labelling needs no more than that: its processes never talk to each other.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from distill.core.errors import DistillError, UsageError

_NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
PATIENCE_S, WEEK_S = 600.0, 7 * 24 * 3600.0


@dataclass(frozen=True)
class Place:
    """This process is number `rank` of `world`, and `local_rank` on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0


def this_place() -> Place:
    """From the environment; the only process when no launcher set anything. Raises UsageError for nonsense there."""
    for rank, world, local in _NAMES:
        if os.environ.get(rank) and os.environ.get(world):
            try:
                place = Place(int(os.environ[rank]), int(os.environ[world]), int(os.environ.get(local) or 0))
            except ValueError:
                raise UsageError(f"The environment variables {rank}, {world}, {local} must be numbers.") from None
            if not 0 <= place.rank < place.world:
                raise UsageError(f"{rank}={place.rank} is not below {world}={place.world}.")
            return place
    return Place()


def processes_here() -> int:
    """How many of the launcher's processes share this machine's cores; all of them where it does not say."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or this_place().world))


def wait_until(ready: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Return when `ready()` is true. Raises DistillError naming `what` when it is not within `patience_s`."""
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > patience_s:
            raise DistillError(f"Waited {patience_s:.0f} s for {what}, in vain. See what the first process says.")
        time.sleep(0.2)


def stage_device(asked: str, place: Place) -> str:
    """Where this process's models of a stage run: "cpu", or this machine's GPU number `local_rank`.

    Args:
        asked: "cpu", or "auto" for a GPU where there is one.
    """
    import torch

    if asked == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{place.local_rank % torch.cuda.device_count()}"

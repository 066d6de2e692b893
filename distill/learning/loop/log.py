"""What a training says of itself as it goes: metrics.jsonl, and the speed that stands in it."""

import json
import sys
import time
from pathlib import Path

import torch

from distill.learning.loop.trackers import Trackers
from distill.learning.settings import OptimSettings


class MetricsLog:
    """metrics.jsonl, one line per logged step, and the trackers. On resume, lines after the resumed step are dropped first.

    Args:
        path: of the file.
        first_step: how many steps are taken already.
        settings: of the training, which names its trackers; None = this process writes nothing.
    """

    def __init__(self, path: Path, first_step: int, settings: OptimSettings | None) -> None:
        self._path = path if settings is not None else None
        self._trackers: Trackers | None = None
        if settings is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first_step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        if settings.trackers:
            self._trackers = Trackers(settings.trackers, path.parent, settings.model_dump(), first_step)

    def write(self, row: dict[str, float]) -> None:
        """Append one row."""
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self._trackers is not None:
            self._trackers.log(row, int(row["step"]))

    def close(self) -> None:
        """No row comes any more."""
        if self._trackers is not None:
            self._trackers.finish()


class Pace:
    """Speed since the last logged step: samples per second over all ranks, and the share of it spent on waiting for data."""

    def __init__(self) -> None:
        self.samples, self._waited_s, self._began_s = 0, 0.0, time.perf_counter()

    def waited(self, waited_s: float) -> float:
        """Seconds for which this process has waited for data since the last logged step; `waited_s` are those since the first."""
        since, self._waited_s = waited_s - self._waited_s, waited_s
        return since

    def read(self, waited: float) -> dict[str, float]:
        """The figures; measuring begins anew. `waited`: seconds since the last logged step, the mean over the processes."""
        now = time.perf_counter()
        elapsed, samples = now - self._began_s, self.samples
        self.samples, self._began_s = 0, now
        return {"samples_per_s": samples / elapsed, "data_wait_share": waited / elapsed}


def memory_gib(device: torch.device) -> dict[str, float]:
    """The most memory that was held so far: by tensors on a CUDA device, by the process elsewhere; nothing where nobody knows.

    Asking does not make the host wait for the device.
    """
    if device.type == "cuda":
        return {"memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    try:
        import resource
    except ImportError:  # Windows
        return {}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_gib": most / (2**30 if sys.platform == "darwin" else 2**20)}

"""How many cores and how much memory this process may use: of the machine, of its CPU set, and of the container or job around it.

Containers and Slurm limit by control groups (cgroups, both versions), which the usual functions do not see: on a machine of 64
cores a container of 4 is told of 64. Left out: GPUs, and memory that processes share (`distill.core.folders.disk`).
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNLIMITED = 2**60  # bytes; version 1 writes a number near 2**63 where there is no limit


def usable_cores() -> int:
    """The cores that this process may run on at a time, at least 1: a container's limit of 2.5 cores counts as 2."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, min(cores, int(min(_quotas(), default=cores))))


def memory_bytes() -> float:
    """Memory of the machine, or of the container where that has less; infinite where nobody says."""
    try:
        whole: float = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        whole = math.inf
    return min([whole, *(limit for limit, _ in _memory())])


def free_memory_bytes() -> int:
    """What can be taken now without swapping, or without being killed in a container; files kept in memory count as free."""
    import psutil

    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(limit - used for limit, used in _memory())]))


def _quotas() -> Iterator[float]:
    """Cores by the limits on this process's group and those around it: microseconds in a period, or none ("max", -1)."""
    said = [_words(folder / "cpu.max") for folder in _groups("")]
    said += [_words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us") for folder in _groups("cpu")]
    for numbers in said:
        if len(numbers) == 2 and all(number.isdigit() and int(number) for number in numbers):
            yield int(numbers[0]) / int(numbers[1])


def _memory() -> Iterator[tuple[int, int]]:
    """(limit, use) in bytes, of this process's group and of those around it that have limits; files kept in memory are no use."""
    for controller, limit, use, kept in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _groups(controller):
            most, used, stat = (_words(folder / name) for name in (limit, use, "memory.stat"))
            if most and most[0].isdigit() and int(most[0]) < _UNLIMITED:
                files = int(stat[stat.index(kept) + 1]) if kept in stat else 0
                yield int(most[0]), max(0, (int(used[0]) if used else 0) - files)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's group and of those around it: of version 2 (""), or of a controller of version 1."""
    try:
        lines = [line.split(":", 2) for line in OWN.read_text().splitlines()]
    except OSError:
        return
    for _, names, path in (line for line in lines if len(line) == 3):
        if controller in names.split(","):
            root = GROUPS / controller
            own = root / path.lstrip("/")
            yield from (place for place in (own, *own.parents) if place == root or root in place.parents)

"""Cores and memory of a container: as the kernel writes its control groups, against what its documentation says they mean."""

import os

import psutil
import pytest

from distill.core import machine
from export.targets.parts import doctor

MIB = 2**20


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes group files below a root of their own; `own` is this process's line of /proc/self/cgroup."""
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "fs")
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_without_groups_it_is_the_cpu_set_and_the_machine(groups):
    groups("")
    assert machine.usable_cores() == 16
    assert machine.memory_bytes() == psutil.virtual_memory().total
    groups("0::/nowhere\n")  # as in a container whose path is the host's
    assert machine.usable_cores() == 16


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 16), ("6400000 100000", 16)],
)
def test_version_2_in_a_container_is_at_the_root(groups, quota, cores):
    groups("0::/\n", **{"cpu.max": quota + "\n"})
    assert machine.usable_cores() == cores


def test_the_group_around_limits_too(groups):
    """As in Slurm: the step has no limit of its own, the job has."""
    groups(
        "0::/slurm/job/step\n",
        **{
            "slurm/job/step/cpu.max": "max 100000\n", "slurm/job/cpu.max": "300000 100000\n", "slurm/cpu.max": "800000 100000\n",
            "slurm/job/step/memory.max": "max\n", "slurm/job/memory.max": f"{512 * MIB}\n",
        },
    )  # fmt: skip
    assert machine.usable_cores() == 3
    assert machine.memory_bytes() == 512 * MIB


def test_version_1(groups):
    groups(
        "4:memory:/docker/a\n3:cpuset:/\n2:cpu,cpuacct:/docker/a\n",
        **{
            "cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": f"{300 * MIB}\n", "memory/memory.usage_in_bytes": f"{250 * MIB}\n",
            "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n",
        },
    )  # fmt: skip
    assert machine.usable_cores() == 2
    assert machine.memory_bytes() == 300 * MIB
    assert machine.free_memory_bytes() == 150 * MIB  # files that the kernel lets go of are free
    groups(
        "2:cpu,cpuacct:/\n", **{"cpu/cpu.cfs_quota_us": "-1\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}
    )
    assert machine.usable_cores() == 16


def test_free_memory_is_never_below_none(groups):
    groups("0::/\n", **{"memory.max": f"{MIB}\n", "memory.current": f"{2 * MIB}\n"})
    assert machine.free_memory_bytes() == 0
    assert not doctor._memory().ok

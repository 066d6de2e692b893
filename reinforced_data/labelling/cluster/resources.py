"""What a task asks of a cluster's nodes: fitted to what they have where the user said nothing, refused where none has it.

A request that no node can fulfil is not refused by Ray: it waits for a node that never comes.
"""

import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from distill.core.errors import UsageError
from reinforced_data.labelling.settings import ClusterSettings

WANTED_CPUS, WANTED_GB_PER_CPU = 4, 4.0


@dataclass(frozen=True)
class Resources:
    """Of a node, or of a request: CPUs, memory in GB (2**30 bytes), GPUs."""

    cpus: float
    memory_gb: float
    gpus: float = 0.0

    def hold(self, request: "Resources") -> bool:
        """Whether a node with these can run a task that asks for `request`."""
        return self.cpus >= request.cpus and self.memory_gb >= request.memory_gb and self.gpus >= request.gpus


def request(settings: ClusterSettings, nodes: Sequence[Resources]) -> Resources:
    """What one task asks for: the settings where they are given, else 4 CPUs with 4 GB each, or less where no node has that.

    Args:
        nodes: of the cluster, empty ones too; none at all = nothing is known of them.

    Raises:
        UsageError: no node has what the settings name; says what they have and which setting fits.
    """
    cpus, per_cpu = settings.cpus_per_task, settings.mem_per_cpu_gb
    if not nodes:
        count = cpus or WANTED_CPUS
        return Resources(count, count * (per_cpu or WANTED_GB_PER_CPU), settings.gpus_per_task)
    fitted = [_on(node, settings) for node in nodes if node.cpus >= 1]
    possible = [asked for asked in fitted if any(node.hold(asked) for node in nodes)]
    if possible:
        return max(possible, key=lambda asked: (asked.cpus, asked.memory_gb))
    raise UsageError(_refusal(settings, nodes))


def _on(node: Resources, settings: ClusterSettings) -> Resources:
    """The request with what is not set taken from the node, as far as the wish goes."""
    cpus = settings.cpus_per_task or min(WANTED_CPUS, math.floor(node.cpus))
    if settings.mem_per_cpu_gb:
        if settings.cpus_per_task is None:  # fewer CPUs, rather than none, where each must have much memory
            cpus = max(1, min(cpus, math.floor(node.memory_gb / settings.mem_per_cpu_gb)))
        return Resources(cpus, cpus * settings.mem_per_cpu_gb, settings.gpus_per_task)
    return Resources(cpus, min(cpus * WANTED_GB_PER_CPU, node.memory_gb), settings.gpus_per_task)


def _refusal(settings: ClusterSettings, nodes: Sequence[Resources]) -> str:
    asked = [
        f"{name}={value}"
        for name in ("cpus_per_task", "mem_per_cpu_gb", "gpus_per_task")
        if (value := getattr(settings, name))
    ]
    have = sorted({f"{node.cpus:g} CPUs, {node.memory_gb:.1f} GB, {node.gpus:g} GPUs" for node in nodes})
    usable = [node for node in nodes if node.cpus >= 1]
    if not usable:
        return f"No node of the cluster has a CPU for tasks ({'; '.join(have)}). Add one, or use another executor."
    most_gpus = max(node.gpus for node in usable)
    gpus = min(settings.gpus_per_task, math.floor(most_gpus))
    best = max((node for node in usable if node.gpus >= gpus), key=lambda node: (node.cpus, node.memory_gb))
    cpus = max(1, min(settings.cpus_per_task or WANTED_CPUS, math.floor(best.cpus)))
    per_cpu = min(settings.mem_per_cpu_gb or WANTED_GB_PER_CPU, math.floor(10 * best.memory_gb / cpus) / 10)
    return (
        f"No node of the cluster has what a task asks for ({', '.join(f'cluster.{item}' for item in asked)}); they have: "
        f"{'; '.join(have)}. This fits: --set cluster.cpus_per_task={cpus} --set cluster.mem_per_cpu_gb={per_cpu:g} "
        f"--set cluster.gpus_per_task={gpus}."
    )


def slurm_nodes(partition: str) -> list[Resources]:
    """The kinds of nodes in a partition, by sinfo; none where it does not say. Their GPUs are not looked at."""
    if shutil.which("sinfo") is None:
        return []
    call = ["sinfo", "--noheader", f"--partition={partition}", "--format=%c %m"]
    try:
        said = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in said.splitlines():
        numbers = [word.rstrip("+") for word in line.split()]  # "32+": at least
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            found.append(Resources(int(numbers[0]), int(numbers[1]) / 1024, math.inf))
    return found

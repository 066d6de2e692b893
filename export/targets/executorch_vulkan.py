"""ExecuTorch with the Vulkan delegate: for the GPUs of Android phones. Left out: quantization.

The ExecuTorch of a computer has no Vulkan inside, so the file is lowered here and not run: the report says so.
"""

from pathlib import Path
from typing import Any

from typing_extensions import override

from export.target import TARGETS, NotCheckedError, Runner
from export.targets.parts.executorch import ExecuTorch

UNRUN = "Python's ExecuTorch has no Vulkan inside: compare the golden samples on a phone"


class ExecutorchVulkan(ExecuTorch):
    """One .pte file; with fp16, a phone computes in fp16 where its GPU can."""

    name = "executorch-vulkan"
    precisions = ("fp16", "fp32")
    runtime = "ExecuTorch Vulkan"
    reasons = {}  # noqa: RUF012

    @property
    @override
    def runs_on(self) -> str:
        return "ExecuTorch 1.4 with its Vulkan delegate, on Android with Vulkan 1.1"

    @property
    @override
    def checked_by(self) -> str:
        return f"nothing on this machine: {UNRUN}"

    @property
    @override
    def no_latency(self) -> str | None:
        return UNRUN

    @override
    def partitioner(self) -> Any:
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return VulkanPartitioner({"force_fp16": self.precision.name == "fp16"})

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        raise NotCheckedError(f"not checked: {UNRUN}")


TARGETS.register("executorch-vulkan")(ExecutorchVulkan())

"""ExecuTorch for Arm's ML extensions for Vulkan (VGF files): GPUs with neural accelerators, which phones are to have.

Arm's converter is in package registries, and pins packages that others cannot have: hence an environment.
"""

import os
import sys
from pathlib import Path
from typing import Any

from typing_extensions import override

from distill.core.packages.environment import Environment
from export.target import TARGETS
from export.targets.parts.npu import Npu


class ExecutorchVgf(Npu):
    """One .pte file with VGF inside."""

    name = "executorch-vgf"
    precisions = ("fp32", "w8a8")
    int8 = "w8a8"
    requires = {}  # noqa: RUF012
    runtime = "ExecuTorch VGF"
    accelerator = "Vulkan with Arm's ML extensions"
    chip = "TOSA-1.0+FP+INT"
    chip_setting = "vgf"
    environment = Environment(
        "executorch-vgf",
        requirements=("executorch[vgf]>=1.4.1,<1.5",),
        modules=("executorch.exir", "executorch.backends.arm.vgf", "model_converter", "tosa_serializer"),
        gigabytes=2.0,
    )

    def _compile_spec(self) -> Any:
        from executorch.backends.arm.vgf import VgfCompileSpec

        return VgfCompileSpec(self.chosen_chip)

    @override
    def quantizer(self) -> Any:
        import executorch.exir  # noqa: F401  # before its quantizers, which import it in a circle
        from executorch.backends.arm.quantizer import VgfQuantizer, get_symmetric_quantization_config

        return VgfQuantizer(self._compile_spec()).set_global(get_symmetric_quantization_config(is_per_channel=True))

    @override
    def partitioner(self) -> Any:
        from executorch.backends.arm.vgf import VgfPartitioner

        # Its converter is a program that pip puts beside the environment's Python.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return VgfPartitioner(self._compile_spec())


TARGETS.register("executorch-vgf")(ExecutorchVgf())

"""ExecuTorch for Arm's Ethos-U, the neural accelerators of microcontrollers and small Linux boards; all is integers there.

Arm's compiler (Vela) is in package registries, and pins packages that others cannot have: hence an environment. Left out: the
system around the accelerator (memory modes, clocks), for which ExecuTorch's defaults are taken.
"""

from typing import Any

from typing_extensions import override

from distill.core.packages.environment import Environment
from export.target import TARGETS
from export.targets.parts.npu import Npu


class ExecutorchEthosU(Npu):
    """One .pte file with a command stream for one configuration of the accelerator."""

    name = "executorch-ethos-u"
    precisions = ("w8a16", "w8a8")
    int8 = "w8a16"  # its norms, sums and the L2 norm are integers too: with 8 bits text towers collapse (cosine 0.17 for 0.998)
    requires = {}  # noqa: RUF012
    runtime = "ExecuTorch Ethos-U"
    accelerator = "Arm's Ethos-U"
    chip = "ethos-u85-256"
    chip_setting = "ethos_u"
    environment = Environment(
        "executorch-ethos-u",
        requirements=("executorch[ethos-u]>=1.4.1,<1.5",),
        modules=("executorch.exir", "executorch.backends.arm.ethosu", "ethosu.vela", "tosa_serializer"),
        gigabytes=2.0,
    )

    def _compile_spec(self) -> Any:
        from executorch.backends.arm.ethosu import EthosUCompileSpec

        return EthosUCompileSpec(self.chosen_chip)

    @override
    def quantizer(self) -> Any:
        import executorch.exir  # noqa: F401  # before its quantizers, which import it in a circle
        from executorch.backends.arm.quantizer import (
            EthosUQuantizer,
            get_symmetric_a16w8_quantization_config,
            get_symmetric_quantization_config,
        )

        wide = self.precision.name == "w8a16"
        config = get_symmetric_a16w8_quantization_config if wide else get_symmetric_quantization_config
        return EthosUQuantizer(self._compile_spec()).set_global(config(is_per_channel=True))

    @override
    def partitioner(self) -> Any:
        from executorch.backends.arm.ethosu import EthosUPartitioner

        return EthosUPartitioner(self._compile_spec())


TARGETS.register("executorch-ethos-u")(ExecutorchEthosU())

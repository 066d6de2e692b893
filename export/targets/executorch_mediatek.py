"""ExecuTorch for MediaTek's NPUs. Its converter (NeuroPilot Express) is MediaTek's to hand out."""

import importlib.util
from typing import Any

from typing_extensions import override

from export.target import TARGETS
from export.targets.parts.npu import NeedsSdk


class ExecutorchMediatek(NeedsSdk):
    """One .pte file compiled for one Dimensity."""

    name = "executorch-mediatek"
    precisions = ("fp16", "w8a8", "w8a16")
    int8 = "w8a8"
    runtime = "ExecuTorch NeuroPilot"
    accelerator = "MediaTek's NPU"
    chip = "mt6991"
    chip_setting = "mediatek"
    sdk = (
        "Get the NeuroPilot Express SDK (neuropilot.mediatek.com, with a login) and pip install its two wheels, mtk_converter and "
        "mtk_neuron, into this Python."
    )

    @override
    def lacks(self) -> bool:
        return any(importlib.util.find_spec(module) is None for module in ("mtk_converter", "mtk_neuron"))

    @override
    def quantizer(self) -> Any:
        from executorch.backends.mediatek import NeuropilotQuantizer, Precision

        quantizer = NeuropilotQuantizer()
        quantizer.setup_precision({"w8a8": Precision.A8W8, "w8a16": Precision.A16W8}[self.precision.name])
        return quantizer

    @override
    def partitioner(self) -> Any:
        from executorch.backends.mediatek import NeuropilotPartitioner
        from executorch.exir.backend.compile_spec_schema import CompileSpec

        return NeuropilotPartitioner([CompileSpec("platform-config", self.chosen_chip.encode())])


TARGETS.register("executorch-mediatek")(ExecutorchMediatek())

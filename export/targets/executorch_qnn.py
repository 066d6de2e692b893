"""ExecuTorch for Qualcomm's Hexagon. Its SDK is Qualcomm's to hand out; `onnx-qnn` reaches the same NPU with packages of PyPI.

Importing ExecuTorch's Qualcomm modules without an SDK starts a download, so nothing of them is imported before one is found.
"""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from export.artifacts.record import Tower
from export.target import TARGETS
from export.targets.parts.npu import NeedsSdk

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array

SDK_VARIABLE = "QNN_SDK_ROOT"
LIBRARIES = Path("lib/x86_64-linux-clang")


class ExecutorchQnn(NeedsSdk):
    """One .pte file with a context binary for one Snapdragon."""

    name = "executorch-qnn"
    precisions = ("fp16", "w8a8", "w8a16")
    int8 = "w8a16"  # int8 activations wreck what is no convolution, as in onnx-qnn
    requires = {"executorch": "executorch>=1.4,<1.5", "cpuinfo": "py-cpuinfo"}  # noqa: RUF012
    runtime = "ExecuTorch QNN"
    accelerator = "Qualcomm's Hexagon"
    chip = "SM8650"
    chip_setting = "qualcomm"
    sdk = (
        "Get the Qualcomm AI Engine Direct SDK (QNN 2.37 or later, qualcomm.com/developer, free, with a login), unpack it on "
        f"Linux, and run: export {SDK_VARIABLE}=FOLDER LD_LIBRARY_PATH=FOLDER/{LIBRARIES.as_posix()}:$LD_LIBRARY_PATH. "
        "Or take the target onnx-qnn, which compiles for the same NPU with packages from PyPI."
    )

    @override
    def lacks(self) -> bool:
        root = os.environ.get(SDK_VARIABLE)
        if not root or importlib.util.find_spec("cpuinfo") is None:
            return True
        libraries = Path(root).expanduser() / LIBRARIES
        searched = [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if part]
        return not (libraries / "libQnnHtp.so").is_file() or libraries not in searched

    def _compile_specs(self) -> Any:
        from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
        from executorch.backends.qualcomm.utils.utils import (
            generate_htp_compiler_spec,
            generate_qnn_executorch_compiler_spec,
        )

        options = generate_htp_compiler_spec(use_fp16=self.precision.name == "fp16")
        return generate_qnn_executorch_compiler_spec(QcomChipset[self.chosen_chip], options)

    @override
    def quantizer(self) -> Any:
        from executorch.backends.qualcomm.quantizer.quantizer import QnnQuantizer, QuantDtype
        from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset, QnnExecuTorchBackendType

        quantizer = QnnQuantizer(QnnExecuTorchBackendType.kHtpBackend, QcomChipset[self.chosen_chip])
        kind = {"w8a8": QuantDtype.use_8a8w, "w8a16": QuantDtype.use_16a8w}[self.precision.name]
        quantizer.set_default_quant_config(kind, is_conv_per_channel=True, is_linear_per_channel=True)
        return quantizer

    @override
    def partitioner(self) -> Any:
        from executorch.backends.qualcomm.partition.qnn_partitioner import QnnPartitioner

        return QnnPartitioner(self._compile_specs())

    @override
    def lowered(self, program: "ExportedProgram", tower: Tower, calibration: "Array | None") -> Any:
        """By Qualcomm's own entry, which runs its passes before and behind the edge dialect and opens its compiler once."""
        from executorch.backends.qualcomm.utils.utils import to_edge_transform_and_lower_to_qnn

        module = self.prepared(program, tower, calibration).module(check_guards=False)
        return to_edge_transform_and_lower_to_qnn(module, program.example_inputs[0], self._compile_specs())


TARGETS.register("executorch-qnn")(ExecutorchQnn())

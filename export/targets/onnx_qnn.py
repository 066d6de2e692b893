"""ONNX for Qualcomm's Hexagon NPU, through ONNX Runtime's QNN execution provider. Left out: files compiled for one
architecture, which hold Qualcomm's context binary: a phone makes its own at the first load (`ep.context_enable`), and one file
then serves them all.

Qualcomm's libraries compile each tower for every architecture in `ARCHITECTURES` when it is converted, so that a tower which the
NPU does not take whole is refused here and not found on a phone. Their emulator runs the file; it counts cycles
too, which are this machine's and no NPU's, so that nothing is timed.

The package is large and exists for few systems, hence an environment. Nothing here is imported outside of it.
"""

import platform
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.errors import DistillError
from distill.core.packages.environment import Environment
from export.artifacts.record import Operations, Tower
from export.target import INPUT_NAMES, TARGETS, NotCheckedError, Runner
from export.targets.onnx import Onnx
from export.targets.parts.kept import Kept

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

    from distill.core.arrays import Array

PROVIDER = "QNNExecutionProvider"
# Hexagon's architecture -> Qualcomm's number of a chip that has it: Snapdragon 8 Gen 2, 8 Gen 3, 8 Elite. V68 has no fp16.
ARCHITECTURES = {"73": "43", "75": "57", "79": "69"}
EMULATED = "75"


class OnnxQnn(Onnx):
    """One self-contained .onnx file that the NPU takes whole; the interface is float32 and int32 at every precision."""

    name = "onnx-qnn"
    mixes = ()
    precisions = ("fp16", "w8a16", "w8a8")
    int8 = "w8a16"  # as w8a8 in size, and nearer: the trained default 0.9998 for 0.9994
    requires = {}  # noqa: RUF012
    runtime = "ONNX Runtime with QNN"
    package = "onnxruntime-qnn"
    environment = Environment(
        "onnx-qnn",
        requirements=("onnx>=1.18,<2", "onnxscript>=0.5,<1", "onnxruntime>=1.24.2,<2", "onnxruntime-qnn>=2.7,<3"),
        modules=("onnx", "onnxscript", "onnxruntime.quantization", "onnxruntime_qnn"),
        gigabytes=1.3,
    )
    check_seconds = 60.0

    @property
    @override
    def no_eight_bit(self) -> str:
        if self.precision.name == "fp16":
            return ""
        return (
            "Qualcomm's runtime reads the bytes wrongly where what follows is quantized (cosine -0.1 in its emulator, where ONNX "
            "Runtime's CPU has 0.9999). Take fp16, or floats"
        )

    @property
    @override
    def runs_on(self) -> str:
        return "ONNX Runtime 1.24 with onnxruntime-qnn 2, on Hexagon V73 (Snapdragon 8 Gen 2), V75, V79"

    @property
    @override
    def checked_by(self) -> str:
        return f"Qualcomm's emulator of Hexagon V{EMULATED}, on this CPU"

    @property
    @override
    def no_latency(self) -> str | None:
        return "Qualcomm's emulator is for checking numbers: neither its time nor its cycle counts are an NPU's"

    @override
    def lower(self, model: "ModelProto", tower: Tower, calibration: "Array | None", kept: Kept) -> "ModelProto":
        if self.precision.name == "fp16":
            return super().lower(model, tower, calibration, kept)
        from export.targets.parts.onnx_precision import for_hexagon

        assert calibration is not None
        return for_hexagon(model, self.precision.name, INPUT_NAMES[tower], calibration)

    @override
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        """As every target's. Raises DistillError where an architecture does not take the whole tower."""
        counts = super().convert(program, tower, path, calibration=calibration).counts
        pieces = 1
        for architecture in ARCHITECTURES:
            try:
                session = _session(path, architecture, 0, whole=False)
            except NotCheckedError:
                raise
            except Exception as error:  # ONNX Runtime's are of many classes, which have no other base
                raise DistillError(f"Qualcomm's compiler for Hexagon V{architecture} fails: {error}") from error
            pieces = max(pieces, _taken_whole(session.get_provider_graph_assignment_info(), architecture))
        return Operations(counts, delegated=sum(counts.values()), subgraphs=pieces)

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        """As every target's, in the emulator, where an operation left to the CPU is an error."""
        import numpy as np

        session = _session(path, EMULATED, threads, whole=True)
        name = session.get_inputs()[0].name

        def run(value: "Array") -> "Array":
            return np.asarray(session.run(None, {name: value})[0])

        return run


def _taken_whole(subgraphs: Any, architecture: str) -> int:
    """In how many pieces the NPU takes the graph. Raises DistillError with the operations that it leaves to the CPU."""
    left = Counter(node.op_type for part in subgraphs if part.ep_name != PROVIDER for node in part.get_nodes())
    if left:
        named = ", ".join(f"{count} {name}" for name, count in sorted(left.items()))
        raise DistillError(
            f"Hexagon V{architecture} does not take the whole tower: {named} would run on the CPU. Take the target onnx, or "
            "another precision."
        )
    return sum(part.ep_name == PROVIDER for part in subgraphs)


def _session(path: Path, architecture: str, threads: int, *, whole: bool) -> Any:
    """The file compiled for an architecture; with `whole`, an operation that is left to the CPU is ONNX Runtime's error."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotCheckedError("not checked: Qualcomm's compiler and emulator are used on Linux x86-64 alone")
    import onnxruntime
    import onnxruntime_qnn

    if not _devices():
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # its warnings are of Windows and of encryption
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1" if whole else "0")
    chosen = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "htp_arch": architecture,
        "soc_model": ARCHITECTURES[architecture],
        "enable_htp_fp16_precision": "1",
    }
    options.add_provider_for_devices(_devices()[:1], chosen)
    return onnxruntime.InferenceSession(str(path), options)


def _devices() -> list[Any]:
    import onnxruntime

    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]


TARGETS.register("onnx-qnn")(OnnxQnn())

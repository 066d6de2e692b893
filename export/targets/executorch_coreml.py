"""ExecuTorch with the Core ML delegate, fp16 or fp32: for apps that have ExecuTorch and want Apple's neural engine. Left out:
quantization, and both towers in one file.

A Mac is needed to run it. Elsewhere the ML Program inside the file is taken out and run by `export.mil`, as that of the
target `coreml` is.
"""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.errors import DistillError
from export.mil.coremltools import forget_earlier_programs, import_coremltools
from export.target import TARGETS, NotCheckedError, Runner
from export.targets.parts.executorch import ExecuTorch

if TYPE_CHECKING:
    pass

BACKEND = "CoreMLBackend"


class ExecutorchCoreMl(ExecuTorch):
    """One .pte file whose delegate holds an ML Program.

    Its bytes differ from one conversion to the next: the delegate gives each program an identifier of its own, by which a phone
    caches what it compiles.
    """

    name = "executorch-coreml"
    precisions = ("fp16", "fp32")
    requires = {**ExecuTorch.requires, "coremltools": "coremltools>=9,<10"}  # noqa: RUF012
    runtime = "ExecuTorch Core ML"
    reasons = {}  # noqa: RUF012

    @property
    @override
    def no_eight_bit(self) -> str:
        return (
            "Core ML has no arrays of bytes, and ExecuTorch hands over arrays alone. The target coreml takes pictures"
        )

    @property
    @override
    def runs_on(self) -> str:
        return "ExecuTorch 1.4 with its Core ML delegate, on iOS 18, macOS 15 and later"

    @property
    @override
    def checked_by(self) -> str:
        rounding = "" if self.precision.name == "fp32" else " with fp16 rounding after each operation"
        return f"the MIL program inside the file run in torch{rounding}, not Core ML itself"

    @property
    @override
    def no_latency(self) -> str | None:
        return "Core ML runs on Apple systems only" + (
            "" if sys.platform != "darwin" else ", and timing it there is not built yet"
        )

    @override
    def partitioner(self) -> Any:
        ct = import_coremltools()
        forget_earlier_programs()
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner

        precision = ct.precision.FLOAT16 if self.precision.name == "fp16" else ct.precision.FLOAT32
        specs = CoreMLBackend.generate_compile_specs(
            compute_precision=precision, minimum_deployment_target=ct.target.iOS18, compute_unit=ct.ComputeUnit.ALL
        )
        return CoreMLPartitioner(compile_specs=specs)

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        """The ML Program alone, which stands for the file only where the delegate takes the whole graph.

        Raises NotCheckedError where it does not.
        """
        from export.mil.program import MilProgram

        with tempfile.TemporaryDirectory() as name:
            package = unpack(path, Path(name))
            return MilProgram(package).run


def unpack(path: Path, folder: Path) -> Path:
    """Write the ML Program package inside a .pte file into `folder`; returns its path.

    Raises NotCheckedError for a file whose graph is not one piece of the delegate, DistillError for one without any.
    """
    from executorch.backends.apple.coreml import executorchcoreml
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(path.read_bytes()).program
    (plan,) = program.execution_plan
    delegates = [delegate for delegate in plan.delegates if delegate.id == BACKEND]
    if not delegates:
        raise DistillError(f"{path} has no Core ML delegate inside. Export again.")
    if len(delegates) > 1 or plan.operators:
        raise NotCheckedError(
            f"not checked: {len(delegates)} pieces of the graph go to Core ML and {len(plan.operators)} kinds of operations do not"
        )
    blob = program.backend_delegate_data[delegates[0].processed.index].data
    executorchcoreml.unflatten_directory_contents(blob, str(folder))
    return next(folder.rglob("*.mlpackage"))


TARGETS.register("executorch-coreml")(ExecutorchCoreMl())

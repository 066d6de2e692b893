"""`ExecuTorch`: what its targets share, one .pte file whose graph is handed to a delegate as far as that takes it.

Left out: delegates, each in a target's module.
"""

import warnings
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from export.artifacts.record import Operations, Tower
from export.target import Target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array

# Of the memory plan and of calls' results: no operations.
NO_OPERATIONS = ("getitem", "alloc")


class ExecuTorch(Target):
    """A target of ExecuTorch.

    Attributes:
        reasons: operation -> why the delegate leaves it to ExecuTorch's own kernels, where that is known.
    """

    suffix = ".pte"
    requires = {"executorch": "executorch>=1.4,<1.5"}  # noqa: RUF012
    package = "executorch"
    reasons: ClassVar[dict[str, str]]

    @abstractmethod
    def partitioner(self) -> Any:
        """The delegate's partitioner. Imports of executorch are made by then."""

    def prepared(self, program: "ExportedProgram", tower: Tower, calibration: "Array | None") -> "ExportedProgram":
        """The program that is lowered; the tower as it is where nothing is quantized beforehand."""
        return program

    def passes(self) -> list[Any]:
        """Passes over the graph before it is partitioned."""
        return []

    def lowered(self, program: "ExportedProgram", tower: Tower, calibration: "Array | None") -> Any:
        """ExecuTorch's manager of the lowered program; `calibration` as of `convert`."""
        from executorch.exir import to_edge_transform_and_lower

        return to_edge_transform_and_lower(
            self.prepared(program, tower, calibration),
            transform_passes=self.passes(),
            partitioner=[self.partitioner()],
        )

    @override
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch and executorch deprecating each other's internals
            from executorch.devtools.backend_debug import get_delegation_info

            lowered = self.lowered(program, tower, calibration)
            found = get_delegation_info(lowered.exported_program().graph_module)
            path.write_bytes(lowered.to_executorch().buffer)
        ops = {name: op for name, op in found.delegation_by_operator.items() if not name.startswith(NO_OPERATIONS)}
        left = {_plain(name): op.non_delegated for name, op in ops.items() if op.non_delegated}
        return Operations(
            counts={_plain(name): op.delegated + op.non_delegated for name, op in ops.items()},
            delegated=sum(op.delegated for op in ops.values()),
            subgraphs=found.num_delegated_subgraphs,
            left=left,
            why={name: self.reasons[name] for name in left if name in self.reasons},
        )


def _plain(name: str) -> str:
    """The name that a reader knows an operation by: "aten_native_layer_norm_default" is native_layer_norm."""
    return name.removeprefix("aten_").removesuffix("_default")

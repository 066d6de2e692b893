"""Layers of a program that stay floats in a quantized file, and finding them again in a converter's own graph.

Converters rename, transpose and cast weights, so a weight is known by its numbers: how many, and sums of their fp16 bits, which no
reordering changes. Left out: which layers to keep (whoever calls).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array


class Kept:
    """The weights to keep.

    Args:
        program: that is converted.
        names: of its weights, as in its state.

    Raises:
        DistillError: the program has no weight of such a name.
    """

    def __init__(self, program: "ExportedProgram", names: Iterable[str]) -> None:
        self.names = tuple(names)
        if unknown := [name for name in self.names if name not in program.state_dict]:
            raise DistillError(f"The layer {unknown[0]!r}, which is to stay in floats, is not in this model.")
        self._names_of: dict[Any, str] = {key_of(program.state_dict[name].numpy()): name for name in self.names}
        self._seen: set[str] = set()

    @classmethod
    def of(cls, program: "ExportedProgram", options: dict[str, Any], tower: str) -> "Kept":
        """Those that a target's options name for a tower."""
        return cls(program, options.get("kept", {}).get(tower, ()))

    def holds(self, weight: "Array") -> bool:
        """Whether `weight` is one of them, in whatever order of its axes, in fp32 or fp16."""
        name = self._names_of.get(key_of(weight)) if self.names else None
        if name is not None:
            self._seen.add(name)
        return name is not None

    def check(self, target: str) -> None:
        """Raise DistillError where a weight has not been met: the converter has merged it with another, and it is quantized."""
        missing = [name for name in self.names if name not in self._seen]
        if missing:
            others = f" and {len(missing) - 1} more" if missing[1:] else ""
            raise DistillError(
                f"{target} has merged {missing[0]!r}{others} with other operations, so it cannot stay in floats alone."
            )


def key_of(weight: "Array") -> tuple[int, int, int]:
    """What is the same for the same numbers in another order or shape, and for fp16 and fp32."""
    import numpy as np

    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(weight).astype(np.float16).reshape(-1).view(np.uint16).astype(np.int64)
    return bits.size, int(bits.sum()), int((bits * bits).sum())

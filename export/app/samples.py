"""`Samples`: the real inputs of one export, which serve parity, calibration and the golden samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.core.arrays import Array
from export.app.classes import Classes
from export.app.kit import AppKit


@dataclass(frozen=True)
class Samples:
    """The samples of one export.

    Attributes:
        pixels: [n, 3, S, S] float32, RGB in [0, 1], for parity.
        tokens: [m, L] int32, for parity.
        calibration: other pixels and tokens, to learn scales from; None = no precision needs them.
        captions, photos: what the first rows of `tokens` and `pixels` were made from; empty = not known.
        fits: the row of `tokens` that describes each row of `pixels`, -1 = none does; empty = not known.
        golden: how many of the first rows become golden samples.
        classes: the labels of a classifier; None = none is made.
    """

    pixels: Array
    tokens: Array
    calibration: tuple[Array, Array] | None
    captions: Sequence[str]
    photos: Sequence[bytes]
    golden: int
    classes: Classes | None = None
    fits: Sequence[int] = ()

    def lay_golden(self, work: Path, reference: dict[str, Array]) -> None:
        """Lay the golden samples beside the kit in `work`. `reference`: inputs and outputs of all parity samples."""
        if self.golden:
            first = {name: rows[: self.golden] for name, rows in reference.items()}
            AppKit.read(work).add_golden(work, **first, captions=self.captions, photos=self.photos)

"""The precisions of exported files: how each stores and computes, in words and as what parity asks of it. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

PrecisionName = Literal["fp32", "fp16", "w8", "p8", "p6", "p4", "w8a8-dynamic", "w8a8", "w8a16"]


@dataclass(frozen=True)
class Precision:
    """One way to store and compute.

    Attributes:
        name: what stands in a folder's name, "<target>-<precision>".
        meaning: in words, for lists and reports.
        closeness: which of the parity bars holds: "exact" is a hundred times nearer to 1 than "half"; "quantized" has a bar
            of its own.
        calibrated: whether the ranges of activations are learned from real inputs when the file is made.
    """

    name: PrecisionName
    meaning: str
    closeness: Literal["exact", "half", "quantized"]
    calibrated: bool = False


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("fp32", "32-bit floats throughout", "exact"),
        Precision("fp16", "16-bit floats throughout", "half"),
        Precision("w8", "weights as int8, one scale per output channel; computed in floats", "quantized"),
        Precision("p8", "weights as a palette of 256 values; computed in floats", "quantized"),
        Precision("p6", "weights as a palette of 64 values; computed in floats", "quantized"),
        Precision("p4", "weights as a palette of 16 values; computed in floats", "quantized"),
        Precision("w8a8-dynamic", "weights int8; activations int8 with a scale found at each call", "quantized"),
        Precision("w8a8", "weights and activations int8 with scales learned beforehand", "quantized", calibrated=True),
        Precision("w8a16", "weights int8, activations int16 with learned scales", "quantized", calibrated=True),
    )
}
AUTO = "auto"  # not a precision: the smallest that loses no more than it may, found by measuring
INT8 = "int8"  # not a precision: each target says which of its own a caller means who just says int8

"""Latencies that others have measured and published, as rows with their provenance; they come with the package.

`published_rows` reads them; `runtime_of` and `precision_of` bring the words of tables to the few that matter for time.
Left out: what is learned from them (`export.latency.fit`).
"""

import csv
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distill.core.errors import UsageError
from export.latency.devices import CHIPS, Chip, find_chip
from export.latency.graph.names import squash

PUBLISHED = Path(__file__).parent / "data" / "published.csv"
COLUMNS = (
    "device", "soc", "unit", "runtime", "runtime_version", "os", "model", "timm_or_openclip_name", "input_size", "batch",
    "precision", "latency_ms", "source", "notes", "key",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One published latency at batch 1.

    Attributes:
        chip: name of its `Chip`; "" where the device is none that is known here.
        device, runtime, version, model, name, size, source, note: as published; `name` is a library's.
        unit: "ANE", "HTP", "CPU", ... where it ran.
        precision: as published.
        key: of the model's operations, see `ModelKey`; "" where they cannot be traced.
        ms: milliseconds; None = it failed there.
    """

    chip: str
    device: str
    unit: str
    runtime: str
    version: str
    model: str
    name: str
    size: str
    precision: str
    ms: float | None
    source: str
    note: str
    key: str

    @property
    def group(self) -> "Group":
        """Which device, runtime and precision it is of."""
        return Group(self.chip, runtime_of(self.runtime, self.unit), precision_of(self.precision))

    @property
    def identity(self) -> str:
        """The same for two rows of the same model at the same size."""
        return identity(self.key, self.model, self.size)

    @property
    def current(self) -> bool:
        """Whether it is of the runtimes' current releases: Qualcomm's older ones were up to three times slower."""
        return self.unit != "HTP" or "layers npu" in self.note

    @property
    def whole(self) -> bool:
        """Whether all of it ran on the NPU, where the source says so."""
        placed = re.search(r"layers npu/gpu/cpu \d+/(\d+)/(\d+)", self.note)
        return placed is None or self.unit == "CPU" or placed.groups() == ("0", "0")


@dataclass(frozen=True, order=True)
class Group:
    """What latencies are comparable within: a chip, a runtime ("coreml", "qnn", ...) and a precision ("fp16", ...)."""

    chip: str
    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"{self.chip}/{self.runtime}/{self.precision}"


def identity(key: str, model: str, size: str) -> str:
    """What a model at a size is known by: its key, else its squashed name."""
    return key or f"name:{squash(model)}@{size}"


RUNTIMES = (
    (r"qnn ?\(dlc\)|^qnn\b|^qnn$|executorch.?qnn|snpe|qairt|hexagon", "qnn"),
    (r"onnx|^ort", "ort"),
    (r"(tflite|litert).*(qnn|npu)|(qnn|npu).*(tflite|litert)", "tflite"),
    (r"xnnpack|^cpu\b", "xnnpack"),
    (r"core ?ml|ane\b|coreai", "coreml"),
    (r"litert", "tflite"),
    (r"tflite", "tflite-plain"),
    (r"enn", "enn"),
)
DEFAULT_RUNTIMES = {"ANE": "coreml", "HTP": "qnn", "CPU": "xnnpack"}


def runtime_of(said: str, unit: str = "") -> str:
    """One word for a runtime as a table names it; without a name, the usual one of the unit."""
    low = said.strip().lower()
    if not low:
        return DEFAULT_RUNTIMES.get(unit, "qnn")
    return next((word for pattern, word in RUNTIMES if re.search(pattern, low)), squash(low))


def precision_of(said: str) -> str:
    """ "fp32", "fp16", "w8a16", "w8a8", or "palN" with N bits. Raises UsageError for what is none of them."""
    low = said.strip().lower().replace(" ", "").replace("_", "")
    if low in ("", "fp16?", "half", "float16") or low.startswith("fp16"):
        return "fp16"
    if low in ("fp32", "float", "float32"):
        return "fp32"
    if low.startswith("w8a16"):
        return "w8a16"
    if low.startswith(("w8a8", "int8", "8a8w", "qint8", "i8")):
        return "w8a8"
    if palette := re.match(r"(?:pal|palette|lut|int|w|p)(\d)$", low):
        return f"pal{palette[1]}"
    if low in ("w8", "weights8", "pal8", "int8weights"):
        return "pal8"
    raise UsageError(f"The precision {said!r} is none that is known: fp32, fp16, w8a16, w8a8 (int8), pal4, pal6, pal8.")


def read_rows(path: Path) -> list[Row]:
    """The rows of a table of COLUMNS. Raises UsageError where a column is missing."""
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise UsageError(f"{str(path)!r} lacks the columns {', '.join(sorted(missing))}.")
        return [_row(line) for line in reader]


def _row(line: dict[str, str]) -> Row:
    return Row(
        chip=_chip(line["soc"] or line["device"], line["device"]),
        device=line["device"],
        unit=line["unit"],
        runtime=line["runtime"],
        version=line["runtime_version"],
        model=line["model"],
        name=line["timm_or_openclip_name"],
        size=line["input_size"],
        precision=line["precision"],
        ms=float(line["latency_ms"]) if line["latency_ms"] else None,
        source=line["source"],
        note=line["notes"],
        key=line["key"],
    )


@functools.cache
def _chip(*said: str) -> str:
    for name in said:
        try:
            return find_chip(name).name
        except UsageError:
            continue
    return ""


@functools.cache
def published_rows() -> tuple[Row, ...]:
    """Every published row that comes with the package."""
    return tuple(read_rows(PUBLISHED))


def fitting_rows(rows: Iterable[Row]) -> list[Row]:
    """Those that a roofline can learn from: a latency of a traced model, on one known unit as a whole, in a current release."""
    return [
        row
        for row in rows
        if row.ms and row.key and row.chip and row.unit in ("ANE", "HTP", "CPU") and row.current and row.whole
        and row.group.precision in ("fp32", "fp16", "w8a16", "w8a8") and "ablation" not in row.source
        and "mixed" not in row.precision and "sparse" not in row.precision
    ]  # fmt: skip


@functools.cache
def _learned_from() -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in fitting_rows(published_rows()):
        if row.unit == CHIPS[row.chip].unit:
            counts[row.chip] = counts.get(row.chip, 0) + 1
    return counts


def calibration(chip: Chip) -> str:
    """How far a chip's latency profile is calibrated, in words."""
    count = _learned_from().get(chip.name, 0)
    if count >= 3:
        return f"predicted from {count} published latencies" + (f" ({chip.note})" if chip.note else "")
    return f"uncalibrated: {chip.note}" if chip.note else f"uncalibrated: {count} published latencies"

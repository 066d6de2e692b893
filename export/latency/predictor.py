"""How long a tower takes on a device: measured by others, taken over from a relative, or predicted; the most trusted first.

The order is latency.md's: a published measurement, the same model on a relative times the ratio of shared anchors, the
roofline with its interval, and for chips without figures a scaled guess that says so. Left out: measuring.
"""

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distill.core import atomic
from distill.core.errors import UsageError
from export.latency.devices import CHIPS, Chip, find_chip
from export.latency.fit.learn import Kind
from export.latency.fit.roofline import OPERAND_BYTES, faster, latency
from export.latency.graph.features import Operations, Pack, pack, published_features
from export.latency.graph.names import squash
from export.latency.lints import SURCHARGE, WORST, Lint, placement_lints
from export.latency.rows import Group, Row, precision_of, published_rows, runtime_of
from export.latency.transfer import NOISE, Table, table_of, transfer

FITTED = Path(__file__).parent / "data" / "fitted.json"
NORMAL_90 = 1.645  # half of a 90 % interval in standard deviations
WIDER = 2.0  # a scaled profile's interval, in logarithms, over a fitted one's
ENOUGH = 3  # rows of its own that make a chip's profile a fitted one

Source = Literal["measured", "transferred", "measured anchors", "predicted", "uncalibrated"]


@dataclass(frozen=True)
class Prediction:
    """One latency at batch 1.

    Attributes:
        ms: milliseconds.
        low, high: nine in ten latencies lie between; learned from families that a fit had not seen.
        source: "measured" (by others, see `note`), "transferred", "predicted" or "uncalibrated".
        note: what it rests on, in words.
        lints: what may keep layers off the NPU; with any, `ms` is a lower bound.
    """

    ms: float
    low: float
    high: float
    source: Source
    note: str
    lints: tuple[Lint, ...] = ()

    @property
    def at_least(self) -> bool:
        """Whether the latency may be far longer, since layers may run off the NPU."""
        return bool(self.lints)


class Predictor:
    """Predicts from rows and what was learned of them.

    Args:
        rows: published ones; others than those that come with the package for tests.
        kinds: what was learned, by unit and precision.
        bounds: (unit, precision) or a group, as text -> factors to the ends of a 90 % interval.
    """

    def __init__(
        self, rows: Sequence[Row], kinds: Mapping[tuple[str, str], Kind], bounds: Mapping[str, Sequence[float]]
    ) -> None:
        self.rows, self.kinds, self.bounds = rows, kinds, bounds
        self.table: Table = table_of(rows)

    def predict(
        self,
        device: str,
        model: str,
        operations: Callable[[], Operations] | Operations,
        *,
        runtime: str = "",
        precision: str = "",
    ) -> Prediction:
        """The latency of a tower on a device.

        Args:
            device: a phone, board or chip as `find_chip` takes it.
            model: identity of the tower, for looking it up in the rows; "" = it is in none.
            operations: of the tower, or how to get them, which is asked only where they are needed.
            runtime, precision: as tables and our targets write them; "" = the device's usual one, in fp16 where it can.

        Raises:
            UsageError: an unknown device or precision; a model that cannot be traced where that is needed, or that is published as
                failing there.
        """  # fmt: skip
        chip = find_chip(device)
        wanted = precision_of(precision or ("fp16" if chip.fp16 else "w8a8"))
        group = Group(chip.name, runtime_of(runtime, chip.unit), wanted)
        if known := self._measured(group, model, runtime):
            return known
        if moved := transfer(self.table, group, model):
            ends = math.exp(NORMAL_90 * moved.spread)
            note = f"{moved.of} x the median ratio of {moved.anchors} models measured on both"
            return Prediction(moved.ms, moved.ms / ends, moved.ms * ends, "transferred", note)
        given = operations() if callable(operations) else operations
        return self.roofline(chip, group, given)

    def _measured(self, group: Group, model: str, runtime: str) -> Prediction | None:
        rows = [
            row
            for row in self.rows
            if model and row.chip == group.chip and row.identity == model and row.group == group
        ]
        if exact := [row for row in rows if row.runtime.lower() == runtime.strip().lower()]:
            rows = exact
        rows = [row for row in rows if row.current] or rows
        values = [row.ms for row in rows if row.ms]
        if rows and not values:
            raise UsageError(f"It is published as failing on {group.chip}: {rows[0].note} ({rows[0].source}).")
        if not values:
            return None
        middle = statistics.median(values)
        low, high = (
            min(*values, middle * math.exp(-NORMAL_90 * NOISE)),
            max(*values, middle * math.exp(NORMAL_90 * NOISE)),
        )
        return Prediction(middle, low, high, "measured", f"published: {rows[0].source}")

    def roofline(self, chip: Chip, group: Group, operations: Operations) -> Prediction:
        """The prediction from operations alone, whatever is published of the model."""
        models = pack([operations])
        unit = self._unit(chip, group)
        kind, narrower = self._kind(unit, group.precision)
        source, theta, note = self._parameters(chip, replace_precision(group, kind.precision), kind)
        ms = float(kind.predict(theta, models, narrower)[0])
        low, high = self._bounds(group, kind)
        if source == "uncalibrated":
            low, high = low**WIDER, high**WIDER
        if not chip.fp16 and group.precision in ("fp16", "fp32") and unit != "CPU":
            note += "; its NPU has no fp16, so that the CPU would run it"
        lints = tuple(placement_lints(operations, unit))
        if lints:
            high = max(high, WORST / SURCHARGE)
            ms *= SURCHARGE
            note += f"; at least, with x{SURCHARGE} for layers off the NPU, since " + "; ".join(
                lint.says for lint in lints
            )
        return Prediction(ms, ms * low, ms * high, source, note, lints)

    def costs(self, chip: Chip, group: Group) -> tuple[str, Any, str]:
        """Where a group's models run, what operations cost there (as `fit.roofline.shares` takes it), and in which precision."""
        unit = self._unit(chip, group)
        kind, narrower = self._kind(unit, group.precision)
        _, theta, _ = self._parameters(chip, replace_precision(group, kind.precision), kind)
        return unit, theta, narrower or kind.precision

    def _unit(self, chip: Chip, group: Group) -> str:
        """Where it runs: the CPU for XNNPACK, and where the rows of such a runtime ran there."""
        if group.runtime == "xnnpack" or chip.unit == "CPU":
            return "CPU"
        placed = [row.unit for row in self.rows if row.chip == group.chip and row.ms and row.group == group]
        if placed and placed.count("CPU") > len(placed) / 2:
            return "CPU"
        return chip.unit if chip.unit in ("ANE", "HTP") else "HTP"

    def _kind(self, unit: str, precision: str) -> tuple[Kind, str]:
        """What was learned that is nearest, and the precision of the weights where that is another than its own."""
        if (unit, precision) in self.kinds:
            return self.kinds[unit, precision], ""
        return self.kinds[unit, "fp32" if unit == "CPU" else "fp16"], precision if precision in OPERAND_BYTES else ""

    def _parameters(self, chip: Chip, group: Group, kind: Kind) -> tuple[Source, Any, str]:
        """Where a latency comes from, what operations cost there, and why."""
        if group in kind.own and kind.counts[group] >= ENOUGH:
            return "predicted", kind.own[group], f"roofline of {kind.counts[group]} published models there"
        near = [other for other in kind.own if other.chip == chip.name and kind.counts[other] >= ENOUGH]
        if near:
            other = max(near, key=lambda item: kind.counts[item])
            return (
                "predicted",
                kind.own[other],
                f"roofline of {kind.counts[other]} published models there, in {other.runtime}",
            )
        if factor := self._speed(chip.name, kind.unit):
            return (
                "predicted",
                faster(kind.common, factor),
                f"roofline of {kind.unit}s, scaled to this chip's others",
            )
        if group in kind.own:
            return (
                "uncalibrated",
                kind.own[group],
                f"roofline of all {kind.unit}s, with {kind.counts[group]} models of this chip",
            )
        if chip.of:
            _, theta, note = self._parameters(CHIPS[chip.of], Group(chip.of, group.runtime, group.precision), kind)
            factor = chip.speed or (chip.gb_s or 1) / (CHIPS[chip.of].gb_s or chip.gb_s or 1)
            return "uncalibrated", faster(theta, factor), f"{chip.note}; {note} of {chip.of}"
        return "uncalibrated", kind.common, f"roofline of all {kind.unit}s; {chip.note}".rstrip("; ")

    def _speed(self, chip: str, unit: str) -> float | None:
        """How much faster a chip is than its kind, from another precision in which it was measured."""
        for (other, precision), kind in self.kinds.items():
            mine = [group for group in kind.own if group.chip == chip and kind.counts[group] >= ENOUGH]
            if other == unit and mine:
                group = max(mine, key=lambda item: kind.counts[item])
                probes = _probes()
                ratio = (
                    latency(kind.common, probes, precision).log() - latency(kind.own[group], probes, precision).log()
                )
                return math.exp(float(ratio.median()))
        return None

    def _bounds(self, group: Group, kind: Kind) -> tuple[float, float]:
        low, high = self.bounds.get(str(group)) or self.bounds.get(f"{kind.unit}/{kind.precision}") or (0.5, 2.0)
        return float(low), float(high)


@functools.cache
def _index() -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in published_rows():
        for name in {squash(row.model), squash(row.name)} - {""}:
            found.setdefault((name, row.size), []).append(row)
    return found


def identity_of(model: str, size: str, device: str = "") -> str:
    """What published rows call a model, by its name or its architecture's; "" where they have it not.

    A device decides between rows of one name that were measured at other sizes than they say.
    """
    rows = _index().get((squash(model), size.strip()), [])
    if device and rows:
        chip = find_chip(device).name
        rows = [row for row in rows if row.chip == chip] or rows
    kinds = {row.identity for row in rows}
    return kinds.pop() if len(kinds) == 1 else ""


def replace_precision(group: Group, precision: str) -> Group:
    """The same device and runtime in another precision."""
    return replace(group, precision=precision)


@functools.cache
def _probes() -> Pack:
    """A few models of every kind, to compare devices by."""
    names = ("timm:resnet50@224", "timm:mobilenetv2_100@224", "clip:ViT-B-16:image@224", "timm:fastvit_mci0@256")
    known = published_features()
    return pack([known[name] for name in names if name in known])


@functools.cache
def published_predictor() -> Predictor:
    """The predictor from the rows and fits that come with the package."""
    stored = atomic.read_json(FITTED)
    kinds = [Kind.from_json(value) for value in stored["kinds"]]
    return Predictor(published_rows(), {(kind.unit, kind.precision): kind for kind in kinds}, stored["bounds"])

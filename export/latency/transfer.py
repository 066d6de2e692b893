"""A latency from one that was measured on a relative: the same model on another device, runtime or precision, times the ratio
of what other models took on both.

The ratio is the median over models that were measured on both sides; how much they differ is the uncertainty. Of the
three most certain relatives the middle one is taken. Left out: models that were measured nowhere, for which
`export.latency.predictor` falls back to the roofline.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from export.latency.rows import Group, Row

ANCHORS = 3  # models on both sides below which a ratio means nothing
NOISE = 0.08  # spread of one measurement around another of the same thing
LARGEST = 0.35  # spread of the ratios from which on a roofline says more
FEW = 3.0  # what a spread over so few anchors is widened by, over their number
OTHER_PRECISION, OTHER_RUNTIME = 0.12, 0.05  # spread that another precision or runtime adds, whatever few anchors say
SCALE = 1.4826  # of a median absolute deviation, to a standard deviation


class Transferred(NamedTuple):
    """A latency in milliseconds, the standard deviation of its logarithm, where from, and over how many anchors."""

    ms: float
    spread: float
    of: Group
    anchors: int


class Measured(NamedTuple):
    """What was measured in a group: on which unit most of it ran, and each model's median latency in ms, by its identity."""

    unit: str
    ms: dict[str, float]


Table = Mapping[Group, Measured]


def table_of(rows: Iterable[Row]) -> dict[Group, Measured]:
    """What was measured in each group, runtimes' current releases alone, and of a group what ran on the same unit as most of it."""
    found: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        if row.ms and row.chip and row.current and "ablation" not in row.source and "sparse" not in row.precision:
            found[row.group].append(row)
    table = {}
    for group, own in found.items():
        unit = Counter(row.unit for row in own).most_common(1)[0][0]
        values: dict[str, list[float]] = defaultdict(list)
        for row in own:
            if row.unit == unit and row.ms:
                values[row.identity].append(row.ms)
        table[group] = Measured(unit, {model: statistics.median(several) for model, several in values.items()})
    return table


def transfer(table: Table, group: Group, model: str, without: Iterable[str] = ()) -> Transferred | None:
    """The latency of `model` in `group` from the most certain relative; None where none is certain enough.

    Args:
        model: identity of a model that was measured in other groups.
        without: identities that are no anchors, beside the model itself.
    """
    if group not in table:
        return None
    unit, there = table[group]
    barred = {model, *without}
    found: list[Transferred] = []
    for other, (placed, models) in table.items():
        if other == group or placed != unit or model not in models:  # a CPU says nothing about an NPU
            continue
        ratios = [math.log(there[name] / models[name]) for name in models if name in there and name not in barred]
        if len(ratios) < ANCHORS:
            continue
        middle = statistics.median(ratios)
        deviation = SCALE * statistics.median(abs(ratio - middle) for ratio in ratios)
        spread = max(deviation, NOISE) * (1 + FEW / len(ratios))
        spread = math.hypot(spread, OTHER_PRECISION * (other.precision != group.precision))
        spread = math.hypot(spread, OTHER_RUNTIME * (other.runtime != group.runtime))
        if spread < LARGEST:
            found.append(Transferred(models[model] * math.exp(middle), spread, other, len(ratios)))
    # The middle one of the three most certain: one published figure may be of a model that ran on the CPU there.
    # Another precision is asked only where no relative has this one: int8 is slow here and there for reasons of its own.
    alike = [one for one in found if one.of.precision == group.precision] or found
    nearest = sorted(alike, key=lambda one: one.spread)[:3]
    return sorted(nearest, key=lambda one: one.ms)[1] if len(nearest) == 3 else nearest[0] if nearest else None

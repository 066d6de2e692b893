"""Accuracy against what a model costs: size, latency on this host, latency on each phone; and which models are on the front.

An axis holds figures of one kind alone: what was measured never stands on one with what was predicted, nor one device, runtime or
precision with another. Models that were judged on different data have no front together. Left out: drawing (`draw`), and
what others have published (`references`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from distill.reporting.likeness import differences

METRICS = {"zero_shot_top1": "zero-shot top-1", "t2i_r1": "text-to-image R@1", "i2t_r1": "image-to-text R@1"}
TOWERS = ("image", "text")
NOISE = 0.05  # share by which one measured latency of a model differs from the next
Kind = Literal["counted", "measured", "predicted"]


class Axis(NamedTuple):
    """What is paid: its name in tables ("size", "host", "iphone-15"), its unit, and how its figures came about."""

    name: str
    unit: str
    kind: Kind


class Cost(NamedTuple):
    """A figure on an axis, the ends of its 90 % interval where it has one, and its source in words."""

    value: float
    low: float | None
    high: float | None
    source: str


@dataclass(frozen=True)
class Point:
    """One model on one axis; `front`: no other model of the axis is at least as good in both and better in one."""

    run: str
    role: str
    model: str
    accuracy: float
    cost: float
    low: float | None
    high: float | None
    source: str
    front: bool = False


@dataclass(frozen=True)
class Front:
    """One axis with its models, judged by one figure on one set of data."""

    axis: Axis
    metric: str
    data: str
    points: list[Point]

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "axis": self.axis.name, "unit": self.axis.unit, "kind": self.axis.kind, "metric": self.metric, "data": self.data,
            "points": [asdict(point) for point in self.points],
        }  # fmt: skip


def on_front(points: Sequence[tuple[float, float]], alike: float = 0.0) -> list[bool]:
    """Of (cost, accuracy) pairs, which are on the Pareto front: nobody is as cheap and as good, and better in one of the two.

    `alike`: costs that differ by less than this share are one: two measurements of one thing do.
    """
    return [
        not any(
            c <= cost * (1 + alike) and a >= accuracy and (c < cost * (1 - alike) or a > accuracy) for c, a in points
        )
        for cost, accuracy in points
    ]


def fronts(runs: Sequence[dict[str, Any]]) -> list[Front]:
    """Every axis that has models, for every figure that all of its models have; the runs' facts as of `reporting.facts.read_run`.

    Measured latencies of this host are left out where the runs were not timed alike.
    """
    alike = not differences(list(runs))
    found: dict[tuple[Axis, str], list[tuple[dict[str, Any], dict[str, Any], Cost]]] = {}
    for facts in runs:
        for row in facts["table"]:
            for axis, cost in costs(facts, row).items():
                if alike or axis.kind != "measured":
                    found.setdefault((axis, str(facts["judged_on"])), []).append((facts, row, cost))
    result = []
    for (axis, data), members in found.items():
        for metric in METRICS:
            if all(row[metric] is not None for _, row, _ in members):
                result.append(Front(axis, metric, data, _points(axis, metric, members)))
    return result


def _points(axis: Axis, metric: str, members: Iterable[tuple[dict[str, Any], dict[str, Any], Cost]]) -> list[Point]:
    points = [Point(facts["out"], row["role"], row["model"], row[metric], *cost) for facts, row, cost in members]
    costs_of = [(point.cost, point.accuracy) for point in points]
    best = on_front(costs_of, NOISE if axis.kind == "measured" else 0.0)
    return [Point(**{**asdict(point), "front": there}) for point, there in zip(points, best, strict=True)]


def costs(facts: dict[str, Any], row: dict[str, Any]) -> dict[Axis, Cost]:
    """What a model of a run costs on every axis that is known of it.

    A student's exported files and predictions are those of its architecture, so that they hold for the arms beside it too.
    """
    found: dict[Axis, Cost] = {}
    if row["size_mb"] is not None:
        found[Axis("size", "MB", "counted")] = Cost(row["size_mb"], None, None, "fp32 weights")
    if row["image_p50_ms"] is not None:
        both = row["image_p50_ms"] + row["text_p50_ms"]
        found[Axis("host", "ms", "measured")] = Cost(round(both, 3), None, None, f"measured, eager, {facts['host']}")
    if row["role"] == "teacher":
        rows = facts["predicted_teachers"].get(row["model"], [])
    else:
        rows = [*facts["predicted"], *facts["profiles"]]
    return found | phone_costs(rows)


def phone_costs(rows: Iterable[dict[str, Any]]) -> dict[Axis, Cost]:
    """Rows of latency profiles as costs: both towers of a device, runtime, precision and kind of source together.

    This host's rows are left out: its eager figures stand for every model, its files' for the student alone.
    """
    towers: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["device"] == "host" or row["source"] == "not measured" or row["tower"] not in TOWERS:
            continue
        kind = "predicted" if row.get("predicted_ms") is not None else row["source"]
        towers.setdefault((row["device"], row["runtime"], row["precision"], kind), {})[row["tower"]] = row
    found = {}
    for (device, runtime, precision, kind), own in towers.items():
        if set(own) != set(TOWERS):
            continue
        predicted = kind == "predicted"
        name = device if precision == "fp16" else f"{device} {precision}"
        name += "" if predicted else f" ({runtime}, {kind})"
        sums = [_sum(own, key) for key in ("predicted_ms" if predicted else "p50_ms", "low_ms", "high_ms")]
        if sums[0] is not None:
            source = " and ".join(dict.fromkeys(str(own[tower]["source"]) for tower in TOWERS))
            axis = Axis(name, "ms", "predicted" if predicted else "measured")
            found[axis] = Cost(sums[0], sums[1], sums[2], source)
    return found


def _sum(towers: dict[str, dict[str, Any]], key: str) -> float | None:
    values = [towers[tower].get(key) for tower in TOWERS]
    return None if None in values else float(f"{sum(value for value in values if value is not None):.4g}")


def primary(found: Sequence[Front]) -> str:
    """The figure that tables and plots show: zero-shot top-1 where it is known of all, else recall."""
    return next((metric for metric in METRICS if any(front.metric == metric for front in found)), "")


def marks(found: Sequence[Front], run: str, model: str) -> str:
    """The axes on whose front a model of a run is, in a few words: "size, host, 6 of 6 phones"; empty for none."""
    metric = primary(found)
    shown = [front for front in found if front.metric == metric]
    own = [(front, point) for front in shown for point in front.points if (point.run, point.model) == (run, model)]
    words = [front.axis.name for front, point in own if point.front and front.axis.kind != "predicted"]
    phones = [point.front for front, point in own if front.axis.kind == "predicted"]
    if any(phones):
        words.append(f"{sum(phones)} of {len(phones)} phones")
    return ", ".join(words)

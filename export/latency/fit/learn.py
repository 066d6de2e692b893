"""From published rows to what each device costs: one fit per kind of NPU and precision, then one per device and runtime.

Devices of a kind were measured on the same models, so their common fit comes first and is the prior of each one's own; its
residuals, smoothed over models that spend their time alike, correct what the roofline's form gets wrong. A row of a family
that is left out is in neither, nor in the corrections.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from export.latency.fit.roofline import (
    AT,
    INT8_RATE,
    as_values,
    faster,
    fit,
    latency,
    of_values,
    prior,
    shares,
    widths,
)
from export.latency.graph.features import PRODUCTS, Operations, Pack, pack
from export.latency.lints import surcharge
from export.latency.rows import Group, Row

FACTOR_SPREAD = 0.6  # of devices of a kind around each other, in logarithms
START_WIDTH = 0.35  # of what one inference costs, between runtimes
OWN = 0.5  # a device's own parameters vary by this share of the kind's
LIKENESS = 0.2  # distance, between the square roots of shares of time, at which two models tell about each other
SIZE_WEIGHT = 0.15  # how much a difference in the logarithm of time counts in that distance
CORRECTION, NOISE = 0.3, 0.12  # spread of what the roofline's form misses, and of a measured row around that


@dataclass
class Kind:
    """What is learned of one unit and precision.

    Attributes:
        unit, precision: such as "HTP", "w8a8".
        common: parameters of the kind.
        own: parameters of each device and runtime.
        counts: rows behind each.
        points: [m, features] of the models that it learned from, and `weights` [m]: what each adds to a correction.
    """

    unit: str
    precision: str
    common: Tensor
    own: dict[Group, Tensor] = field(default_factory=dict)
    counts: dict[Group, int] = field(default_factory=dict)
    points: Tensor = field(default_factory=lambda: torch.zeros(0, 1))
    weights: Tensor = field(default_factory=lambda: torch.zeros(0))

    def predict(self, theta: Tensor, models: Pack, precision: str = "") -> Tensor:
        """Milliseconds of each model [n] on the NPU alone, by what operations cost; `precision`: where weights are narrower."""
        return latency(theta, models, precision or self.precision) * self.correction(models).exp()

    def correction(self, models: Pack) -> Tensor:
        """Logarithm of what to multiply the roofline with, [n]."""
        if not len(self.weights):
            return torch.zeros(models.n).double()
        return _likeness(_points(self.common, models, self.precision), self.points) @ self.weights

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        own = {str(group): [self.counts[group], as_values(theta)] for group, theta in self.own.items()}
        return {
            "unit": self.unit,
            "precision": self.precision,
            "common": as_values(self.common),
            "own": own,
            "points": [[round(value, 5) for value in point] for point in self.points.tolist()],
            "weights": [round(value, 6) for value in self.weights.tolist()],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Kind":
        """What `to_json` wrote."""
        own = {Group(*name.split("/")): entry for name, entry in value["own"].items()}
        return cls(
            value["unit"],
            value["precision"],
            of_values(value["common"]),
            {group: of_values(theta) for group, (_, theta) in own.items()},
            {group: count for group, (count, _) in own.items()},
            torch.tensor(value["points"], dtype=torch.float64),
            torch.tensor(value["weights"], dtype=torch.float64),
        )


def learn(
    rows: Sequence[Row], operations: Mapping[str, Operations], unit: str, precision: str, *, base: Kind | None = None
) -> Kind:
    """Everything about one kind from its rows.

    Args:
        rows: of this unit and precision, each with a latency and a key of `operations`.
        base: the same unit in fp16, which an int8 fit starts from; None = the priors.
    """
    centre = prior(unit, precision) if base is None else _requantized(base.common, precision)
    kind = Kind(unit, precision, centre)
    if not rows:
        return kind
    medians = typical(rows, operations)
    keys = list(dict.fromkeys(key for _, key in medians))
    groups = list(dict.fromkeys(group for group, _ in medians))
    models = pack([operations[key] for key in keys])
    which = torch.tensor([keys.index(key) for _, key in medians])
    where = torch.tensor([groups.index(group) for group, _ in medians])
    plain = [ms / surcharge(operations[key], unit) for (_, key), ms in medians.items()]
    log_ms = torch.tensor(plain, dtype=torch.float64).log()
    width = widths(1.0 if base is None else 0.6)
    kind.common, factors = fit(models, which, where, log_ms, precision, centre, width, spread=FACTOR_SPREAD)
    residual = torch.zeros(len(keys), dtype=torch.float64)
    for index, group in enumerate(groups):
        mine = where == index
        near = faster(kind.common, float((-factors[index]).exp()))
        zero = torch.zeros(int(mine.sum()), dtype=torch.long)
        kind.own[group], _ = fit(models, which[mine], zero, log_ms[mine], precision, near, _own_widths(), iterations=40)
        kind.counts[group] = int(mine.sum())
        error = log_ms[mine] - latency(kind.own[group], models, precision).log()[which[mine]]
        residual.index_add_(0, which[mine], error)
    residual = residual / torch.bincount(which, minlength=len(keys))
    kind.points = _points(kind.common, models, precision)
    covariance = _likeness(kind.points, kind.points) + NOISE**2 * torch.eye(len(keys)).double()
    kind.weights = torch.linalg.solve(covariance, residual)
    return kind


def _own_widths() -> Tensor:
    """How far a device and runtime may lie from its kind; most in what a call of the whole model costs, which is software."""
    width = widths(OWN)
    width[AT["start"]] = START_WIDTH
    return width


def typical(rows: Iterable[Row], operations: Mapping[str, Operations]) -> dict[tuple[Group, str], float]:
    """Geometric mean of the latencies of each model on each device and runtime; towers of the same operations are one model."""
    found: dict[tuple[Group, str], list[float]] = defaultdict(list)
    first: dict[frozenset[object], str] = {}
    for row in rows:
        assert row.ms is not None
        key = first.setdefault(frozenset(operations[row.key].items()), row.key)
        found[row.group, key].append(row.ms)
    return {place: float(torch.tensor(values).double().log().mean().exp()) for place, values in found.items()}


def _requantized(theta: Tensor, precision: str) -> Tensor:
    """Where an int8 fit starts: fp16's parameters, products twice as fast where both sides are int8."""
    if precision != "w8a8":
        return theta
    change = torch.zeros_like(theta)
    change[: len(PRODUCTS)] = torch.tensor(INT8_RATE).double().log()
    return theta + change


def _points(theta: Tensor, models: Pack, precision: str) -> Tensor:
    """Where each model stands: the square roots of its shares of time, and the logarithm of the whole."""
    parts = shares(theta, models, precision)
    whole = parts.sum(1, keepdim=True)
    return torch.cat([(parts / whole).sqrt(), SIZE_WEIGHT * whole.log()], 1)


def _likeness(left: Tensor, right: Tensor) -> Tensor:
    return CORRECTION**2 * torch.exp(-(torch.cdist(left, right) ** 2) / (2 * LIKENESS**2))

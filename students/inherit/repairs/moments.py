"""Means and covariances of what a source's linear layers read, over calibration pairs."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill.core.clip.weights import ClipWeights
from students.inherit.calibration import Calibration
from students.inherit.scoring.probe import encode, pieces, runnable, watched
from students.inherit.towers.tower import Tower

PLACES = 100  # of a sequence that are looked at; of longer ones every second, third, ..., since neighbours are alike


@dataclass
class Moments:
    """The first two moments of one tensor over places and pairs, added up in float64.

    Attributes:
        count: places seen.
        total: [n], their sum.
        products: [n, n], the sum of their outer products; None where means alone are wanted.
    """

    count: float = 0.0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    products: Tensor | None = None

    def add(self, rows: Tensor, *, second: bool) -> None:
        """Add rows [m, n]."""
        self.count += len(rows)
        self.total = self.total + rows.double().sum(0).cpu()
        if second:
            products = (rows.T @ rows).double().cpu()
            self.products = products if self.products is None else self.products + products

    @property
    def mean(self) -> Tensor:
        """[n]."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """[n, n]."""
        assert self.products is not None
        return self.products / self.count - torch.outer(self.mean, self.mean)


def moments(
    source: ClipWeights, which: str, tower: Tower, layers: list[int], calibration: Calibration, *, second: bool
) -> dict[tuple[str, int], Moments]:
    """(part, layer) -> its moments, of the parts that `students.inherit.scoring.probe.watch` names, in the layers kept.

    Args:
        source, which, tower: what is run.
        layers: the source layers of interest.
        calibration: the pairs; padding of captions is left out.
        second: whether covariances are wanted too.
    """
    found: dict[tuple[str, int], Moments] = {}
    kept = {*layers}
    with torch.no_grad():
        for piece in pieces(calibration):
            seen: list[tuple[str, int, Tensor]] = []

            def see(part: str, layer: int, value: Tensor, seen: list[tuple[str, int, Tensor]] = seen) -> None:
                if layer in kept:
                    seen.append((part, layer, value))

            with watched(runnable(source), tower, see):
                _, used = encode(source, calibration, which, piece)
            for part, layer, whole in seen:
                step = -(-whole.shape[1] // PLACES) if whole.ndim == 3 else 1
                value, counted = whole[:, ::step] if whole.ndim == 3 else whole, used[:, ::step]
                rows = value[counted.bool()] if value.shape[:2] == counted.shape else value.flatten(0, -2)
                found.setdefault((part, layer), Moments()).add(rows.float(), second=second)
    return found

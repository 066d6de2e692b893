"""Projections in closed form: ridge regression from a tower's pooled features to embeddings that teachers stored.

A tower that was taken over from elsewhere knows nothing of the teacher's space; the best linear map into it needs one pass
over the data and no gradient step. The penalty is chosen on samples held out, by their error, from moments alone: features are
never kept, so that memory is [F, F] and not [N, F]. Left out: drawing the samples and running the towers
(`distill.stages.training`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)  # shares of the features' mean variance
_ALIKE = 1e-9  # of the targets' squares: targets that differ by less are all the same, and rounding is left
HELD_OUT = 8  # every eighth sample chooses the penalty


@dataclass(frozen=True)
class RidgeFit:
    """What a fit found.

    Attributes:
        weight, offset: [D, F] and [D] float32: `weight @ x + offset` is the prediction.
        penalty: the share of the features' mean variance that was added to each of their variances.
        explained: of the held-out targets' variance, in [.., 1]; 0 is no better than their mean.
        samples: n, held-out ones included.
    """

    weight: Tensor
    offset: Tensor
    penalty: float
    explained: float
    samples: int


class Moments:
    """Sums over samples, float64, from which any ridge regression follows.

    Args:
        features, width: F and D.
        offset: whether the map may have an offset.
    """

    def __init__(self, features: int, width: int, *, offset: bool = True) -> None:
        self.count, self.offset = 0, offset
        self.x, self.y = torch.zeros(features).double(), torch.zeros(width).double()
        self.xx, self.xy = torch.zeros(features, features).double(), torch.zeros(features, width).double()
        self.yy = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """n more samples: features [n, F] and targets [n, D]."""
        x, y = x.double().cpu(), y.double().cpu()
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += float(y.square().sum())

    def __add__(self, other: "Moments") -> "Moments":
        total = Moments(len(self.x), len(self.y), offset=self.offset)
        for name in ("count", "x", "y", "xx", "xy", "yy"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def centred(self) -> tuple[Tensor, Tensor]:
        """(sums [F, F] of the features' products, [F, D] of those with targets); about the means where there is an offset."""
        if not self.offset:
            return self.xx, self.xy
        return (
            self.xx - torch.outer(self.x, self.x) / self.count,
            self.xy - torch.outer(self.x, self.y) / self.count,
        )

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """The map [F, D] and its offset [D] of least squared error plus the penalty on the map."""
        xx, xy = self.centred()
        added = penalty * float(xx.diagonal().mean()) or torch.finfo(xx.dtype).tiny
        weight = torch.linalg.solve(xx + added * torch.eye(len(xx), dtype=xx.dtype), xy)
        return weight, (self.y - self.x @ weight) / self.count if self.offset else torch.zeros_like(self.y)

    def error(self, weight: Tensor, offset: Tensor) -> float:
        """The squared error of `x @ weight + offset` over these samples, summed."""
        predicted = (weight.T @ self.xx @ weight).trace() + 2 * (self.x @ weight) @ offset
        crossed = (weight * self.xy).sum() + offset @ self.y
        return float(predicted + self.count * offset @ offset - 2 * crossed) + self.yy


class RidgeRegression:
    """Ridge regression over batches, whose penalty the held-out samples choose.

    Args:
        features, width, offset: as of `Moments`.
    """

    def __init__(self, features: int, width: int, *, offset: bool = True) -> None:
        self.fitted, self.held = (Moments(features, width, offset=offset) for _ in range(2))
        self._seen = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """n more samples: features [n, F] and targets [n, D]."""
        held = (torch.arange(self._seen, self._seen + len(x)) % HELD_OUT) == HELD_OUT - 1
        self._seen += len(x)
        self.fitted.add(x[~held], y[~held])
        self.held.add(x[held], y[held])

    def through_zero(self) -> "RidgeRegression":
        """The same samples, to be fitted by a map without an offset."""
        self.fitted.offset = self.held.offset = False
        return self

    def fit(self) -> RidgeFit:
        """The fit to all samples, under the penalty that serves the held-out ones best. Needs 16 samples or more."""
        if self.held.count < 2:
            raise ValueError(f"{self._seen} samples are too few to choose a penalty.")
        errors = {penalty: self.held.error(*self.fitted.solve(penalty)) for penalty in PENALTIES}
        best = min(errors, key=lambda penalty: errors[penalty])
        spread = self.held.yy - float(self.held.y @ self.held.y) / self.held.count
        weight, offset = (self.fitted + self.held).solve(best)
        explained = 1 - errors[best] / spread if spread > _ALIKE * self.held.yy else 0.0
        return RidgeFit(weight.T.float(), offset.float(), best, explained, self._seen)


def shared_space(embeds: list[Tensor], width: int) -> Tensor:
    """A basis that brings the joined embeddings of several teachers to one width.

    The inner product of unit-length embeddings, joined and divided by the root of their number, is the mean of the teachers'
    similarities; the axes of largest second moment (about zero, not about the mean) keep most of it.

    Args:
        embeds: per teacher [n, D_k], unit length; images and texts alike, so that both are brought to the same space.
        width: D of the student; axes beyond the joined width are empty.

    Returns:
        [sum of D_k, D], to be multiplied with `torch.cat(embeds, 1) / len(embeds) ** 0.5`.
    """
    joined = torch.cat(embeds, 1).double() / len(embeds) ** 0.5
    if joined.shape[1] == width:
        return torch.eye(width)
    _, vectors = torch.linalg.eigh(joined.T @ joined)
    basis = torch.zeros(joined.shape[1], width)
    kept = vectors.flip(1)[:, :width]
    basis[:, : kept.shape[1]] = kept.float()
    return basis

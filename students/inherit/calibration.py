"""Calibration pairs: what strategies score on, and what a start from inherited weights is measured by before training."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.core.clip.weights import ClipWeights

if TYPE_CHECKING:
    from students.student import Student

FEWEST = 16  # pairs to measure on; fewer tell nothing of a held-out half
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # times the mean eigenvalue


@dataclass(frozen=True)
class Calibration:
    """n pairs of the run's own data.

    Attributes:
        images: [n, 3, H, W] in [0, 1].
        captions: n; some may belong to no image, where the run has such texts.
        loss: the run's objective on these pairs, of a student; a scalar with a gradient.
        stored: embeddings that the source gave when it labelled, "visual" and "text" -> [n, D]; empty where the source is
            none of the run's teachers.
    """

    images: Tensor = field(repr=False)
    captions: list[str] = field(repr=False)
    loss: "Callable[[Student], Tensor]" = field(repr=False)
    stored: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.captions)


def source_embeddings(source: ClipWeights, calibration: Calibration, which: str) -> Tensor | None:
    """[n, D]: what the source's tower gives for the pairs, stored or computed; None where it can be neither."""
    if which in calibration.stored:
        return calibration.stored[which]
    if source.model is None or source.normalise is None or source.tokenize is None:
        return None
    normalise, tokenize, model = source.normalise, source.tokenize, source.model
    device = next(model.parameters()).device
    if which == "visual":
        return _in_pieces(lambda i: model.encode_image(normalise(calibration.images[i].to(device))), len(calibration))
    return _in_pieces(lambda i: model.encode_text(tokenize(calibration.captions[i]).to(device)), len(calibration))


def student_embeddings(student: "Student", calibration: Calibration, which: str) -> Tensor:
    """[n, D]: what a student's tower gives for the pairs."""
    if which == "visual":
        return _in_pieces(lambda i: student.encode_image(calibration.images[i]), len(calibration))
    return _in_pieces(lambda i: student.encode_text(student.tokenize(calibration.captions[i])), len(calibration))


@torch.no_grad()
def _in_pieces(encode: Callable[[slice], Tensor], n: int, size: int = 64) -> Tensor:
    return torch.cat([encode(slice(i, i + size)).float().cpu() for i in range(0, n, size)])


def step0_loss(features: Tensor, targets: Tensor) -> float:
    """How far embeddings are from the source's when the best linear map lies between: 1 - cosine, on held-out pairs.

    0 = all of the source is there, 1 = nothing. The map is ridge regression, fitted on one half and judged on the other,
    both ways; a projection that is not inherited is learned (or fitted in closed form) anyway, so it should not count.

    Args:
        features: [n, D], of a student's tower.
        targets: [n, D_t], of the source's.
    """
    unit = torch.nn.functional.normalize
    x, y = unit(features.double(), dim=1), unit(targets.double(), dim=1)
    halves = torch.arange(len(x)) % 2 == 0
    losses = []
    for ridge in RIDGES:
        found = [
            1 - torch.nn.functional.cosine_similarity(_ridge(x[fit], y[fit], x[~fit], ridge), y[~fit]).mean()
            for fit in (halves, ~halves)
        ]
        losses.append(float(torch.stack(found).mean()))
    return min(losses)


def _ridge(x: Tensor, y: Tensor, new: Tensor, ridge: float) -> Tensor:
    """[m, D_t]: predictions for `new`, of a ridge regression of y on x with a constant term, solved over the samples."""
    mean, level = x.mean(0), y.mean(0)
    centred = x - mean
    gram = centred @ centred.T
    strength = ridge * gram.diagonal().mean().clamp(min=1e-12)
    weights = torch.linalg.solve(gram + strength * torch.eye(len(x), dtype=x.dtype), y - level)
    predicted: Tensor = (new - mean) @ centred.T @ weights + level
    return predicted


def measure(student: "Student", source: ClipWeights, calibration: Calibration, which: str) -> float | None:
    """The step-0 loss of a student's tower against the source's; None where there are too few pairs or no embeddings."""
    if len(calibration) < FEWEST or (targets := source_embeddings(source, calibration, which)) is None:
        return None
    training = student.training
    student.eval()
    value = step0_loss(student_embeddings(student, calibration, which), targets.cpu())
    student.train(training)
    return round(value, 4)


Calibrate = Callable[[], Calibration | None]


def none_at_hand() -> Any:
    """A `Calibrate` for a call that has no data."""
    return None

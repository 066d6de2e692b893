"""The logit scale (and bias) under which embeddings of pairs are likeliest: two small convex problems, in float64.

Why these criteria: see `calibrate`, which uses them. Left out: where the embeddings come from.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MOST_SCALE = {"softmax": 100.0, "sigmoid": 200.0}  # CLIP section 2.5 ends at 100; SigLIP's checkpoints hold about 110
_FLAT = 1e-9  # a slope of the loss that no scale worth the name depends on


def softmax_scale(image: "Tensor", text: "Tensor", owner: "Tensor", batch_size: int) -> float:
    """The s that minimises InfoNCE of s * image @ text.T, mean of both directions and of all whole batches.

    Args:
        image, text: [n, D] unit length, pair by pair.
        owner: [n]; pairs with the same number are positives of each other.
        batch_size: B, pairs that compete; n when that is less. A last batch that is not whole is left out.

    Returns:
        s, at most 100 (CLIP's own limit; pairs told apart without a mistake have no optimum); 0 or less when pairs
        are no more alike than non-pairs.
    """
    import torch

    similarity, same = _batches(image, text, owner, batch_size)
    truth = same / same.sum(2, keepdim=True)
    paired = (truth * similarity).sum(2).mean()  # `same` is symmetric, so both directions share it up to a transpose
    mirrored = (truth * similarity.mT).sum(2).mean()

    def loss(unknown: "Tensor") -> "Tensor":
        scale = unknown[0]
        both = torch.logsumexp(scale * similarity, 2).mean() + torch.logsumexp(scale * similarity, 1).mean()
        return (both - scale * (paired + mirrored)) / 2

    most = MOST_SCALE["softmax"]
    if _slope(loss, [0.0]) >= 0:  # the loss is convex, so that slopes at the ends say whether the minimum lies between
        return 0.0
    return most if _slope(loss, [most]) <= _FLAT else float(_minimum(loss, [20.0], [20.0])[0])


def sigmoid_scale(image: "Tensor", text: "Tensor", owner: "Tensor", batch_size: int) -> tuple[float, float]:
    """The (s, bias) that minimise SigLIP's loss of s * image @ text.T + bias over all pairs of all whole batches.

    Arguments and limits as in `softmax_scale`, with 200 as the greatest s.
    """
    import torch

    similarity, same = _batches(image, text, owner, batch_size)
    middle, spread = similarity.mean(), similarity.std()
    if float(similarity[same > 0].mean()) <= float(similarity[same == 0].mean()):
        return 0.0, 0.0
    standard = (similarity - middle) / spread

    def loss(unknown: "Tensor") -> "Tensor":
        logits = unknown[0] * standard + unknown[1]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, same)

    most = float(MOST_SCALE["sigmoid"] * spread)
    slope, offset = (
        most,
        float(_minimum(lambda bias: loss(torch.cat([bias.new_tensor([most]), bias])), [-5.0], [1.0])[0]),
    )
    if _slope(loss, [slope, offset]) > _FLAT:  # less is better than the most
        slope, offset = _minimum(loss, [1.0, -5.0], [1.0, 1.0]).tolist()
    return float(slope / spread), float(offset - slope * middle / spread)


def _batches(image: "Tensor", text: "Tensor", owner: "Tensor", batch_size: int) -> "tuple[Tensor, Tensor]":
    """[batches, b, b] similarities and 1.0 where row and column share a caption, float64."""
    import torch

    size = min(batch_size, len(image))
    whole = len(image) // size * size
    left = image[:whole].double().view(-1, size, image.shape[1])
    right = text[:whole].double().view(-1, size, text.shape[1])
    numbers = owner[:whole].view(-1, size)
    with torch.no_grad():
        return left @ right.mT, (numbers[:, :, None] == numbers[:, None, :]).double()


def _slope(loss: "Callable[[Tensor], Tensor]", place: list[float]) -> float:
    """The derivative of `loss` by its first unknown."""
    import torch

    unknown = torch.tensor(place, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(loss(unknown), unknown)[0][0])


def _minimum(loss: "Callable[[Tensor], Tensor]", start: list[float], unit: list[float]) -> "Tensor":
    """Where the convex `loss` is least: L-BFGS in units of `unit` until the gradient vanishes in float64."""
    import torch

    units = torch.tensor(unit, dtype=torch.float64)
    unknown = (torch.tensor(start, dtype=torch.float64) / units).requires_grad_()
    solver = torch.optim.LBFGS(
        [unknown], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> "Tensor":
        solver.zero_grad()
        value: Tensor = loss(unknown * units)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    return (unknown * units).detach()

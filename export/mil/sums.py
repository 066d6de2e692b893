"""The sums of products in a program (linear, matmul, conv), added up in one go or in pieces.

No two machines add in one order. Kernels here add in float32 and round once; hardware that works tile by tile rounds the sum
of each tile. With `blocks` above 1 the terms are cut into so many pieces, added from the last to the first, and every partial
sum is rounded to the type of the result. For a well-conditioned network that changes as little as fp16 does anyway; one whose
embeddings change has an fp16 that nobody can vouch for.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Rounding = Callable[[Tensor], Tensor]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, blocks: int, rounding: Rounding) -> Tensor:
    """[..., I], [O, I], [O] -> [..., O]."""
    if blocks == 1:
        return F.linear(x, weight, bias)
    parts = (F.linear(x[..., piece], weight[:, piece]) for piece in pieces(x.shape[-1], blocks))
    total = _added(parts, rounding)
    return total if bias is None else total + bias


def matmul(x: Tensor, y: Tensor, blocks: int, rounding: Rounding) -> Tensor:
    """[..., N, K], [..., K, M] -> [..., N, M]."""
    if blocks == 1:
        return x @ y
    return _added((x[..., piece] @ y[..., piece, :] for piece in pieces(x.shape[-1], blocks)), rounding)


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: dict[str, Any], blocks: int, rounding: Rounding
) -> Tensor:
    """Padded input [b, C, ...], kernel [O, C / groups, ...], [O] -> [b, O, ...].

    The pieces are of a group's channels; of the kernel's rows where a group has but one channel.

    Args:
        geometry: stride, dilation and groups, as of torch's convolutions.
    """
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    if blocks == 1:
        result: Tensor = function(x, weight, bias, **geometry)
        return result
    groups, channels = geometry["groups"], weight.shape[1]
    if channels > 1:
        grouped = x.reshape(x.shape[0], groups, channels, *x.shape[2:])
        parts = (
            function(grouped[:, :, piece].reshape(x.shape[0], -1, *x.shape[2:]), weight[:, piece], None, **geometry)
            for piece in pieces(channels, blocks)
        )
    else:
        parts = (
            function(x, _rows(weight, piece), None, **geometry) for piece in pieces(weight.shape[2], blocks)
        )  # fmt: skip
    total = _added(parts, rounding)
    return total if bias is None else total + bias.reshape(-1, *[1] * (weight.dim() - 2))


def pieces(length: int, blocks: int) -> list[slice]:
    """`length` terms in at most `blocks` pieces of one size (the last may be smaller), the last piece first."""
    size = -(-length // blocks)
    return [slice(start, min(start + size, length)) for start in reversed(range(0, length, size))]


def _rows(weight: Tensor, piece: slice) -> Tensor:
    kept = torch.zeros_like(weight)
    kept[:, :, piece] = weight[:, :, piece]
    return kept


def _added(parts: Iterable[Tensor], rounding: Rounding) -> Tensor:
    total: Tensor | None = None
    for part in parts:
        total = rounding(part) if total is None else rounding(total + rounding(part))
    assert total is not None
    return total

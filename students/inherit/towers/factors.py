"""Narrower heads by factors: the best product of small matrices for what a head of the source computes."""

import torch
from torch import Tensor


def factorise(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [rank, m] and B [rank, n] whose product A^T B is the best of that rank for left^T right, in the Frobenius norm.

    Args:
        left, right: [w, m] and [w, n], with rank <= w.
        rank: of the factors, which share the singular values evenly.
    """
    q_left, r_left = torch.linalg.qr(
        left.double().T
    )  # left^T right = q_left (r_left r_right^T) q_right^T, a small middle
    q_right, r_right = torch.linalg.qr(right.double().T)
    u, s, vh = torch.linalg.svd(r_left @ r_right.T)
    root = s[:rank].sqrt()
    return (root * (q_left @ u[:, :rank])).T, (root * (q_right @ vh[:rank].T)).T


def narrow_heads(
    q: tuple[Tensor, Tensor],
    k: tuple[Tensor, Tensor],
    v: tuple[Tensor, Tensor],
    out: Tensor,
    heads: list[slice],
    width: int,
) -> dict[str, Tensor]:
    """The attention of a layer with each head `width` wide, by factors of its two products, biases included.

    Args:
        q, k, v: weight [channels, hidden] and bias [channels].
        out: weight of the output layer, [hidden, channels].
        heads: the channels of each head that is kept.
        width: of the student's heads, at most that of the source's.

    Returns:
        "q.weight", "q.bias", ... and "out.weight", without the scale of the softmax.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in ("q", "k", "v", "out")}
    whole = {name: torch.cat([weight, bias[:, None]], 1) for name, (weight, bias) in zip("qkv", (q, k, v), strict=True)}
    for head in heads:
        for (a, b), (left, right) in (
            (("q", "k"), (whole["q"][head], whole["k"][head])),
            (("out", "v"), (out[:, head].T, whole["v"][head])),
        ):
            for name, factor in zip((a, b), factorise(left, right, width), strict=True):
                found[name].append(factor)
    result = {"out.weight": torch.cat(found["out"]).T}
    for name in "qkv":
        rows = torch.cat(found[name])
        result |= {f"{name}.weight": rows[:, :-1], f"{name}.bias": rows[:, -1]}
    return result

"""Naming what is wrong with a classifier that says something else than its model: which known mistake explains its probabilities.

Left out: mistakes of its image tower, which that tower's own check names (`export.towers.faults`).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

NEAR = 1e-3  # of every probability, where a mistake explains them
ALIKE = 1e-2  # of logits that differ by a factor or a constant alone, over their size


def probabilities_of(image: Tensor, labels: Tensor, logit_scale: float, logit_bias: float, kind: str) -> Tensor:
    """[n, D] and [k, D] -> [n, k]."""
    logits = logit_scale * image @ labels.T + logit_bias
    return logits.softmax(-1) if kind == "softmax" else logits.sigmoid()


def explain_classifier(
    found: Tensor, image: Tensor, each: Tensor, templates: tuple[str, ...], scale: float, bias: float, kind: str
) -> str:
    """The known mistake under which a classifier would say `found`, as a clause; "" where none explains it.

    Args:
        found: [n, k], what it says.
        image: [n, D], the model's own embeddings of the pictures, unit length.
        each: [k, t, D], the embeddings of every label in every template, unit length.
        templates: t.
        scale, bias, kind: the model's.
    """
    found, image, each = found.double(), image.double(), each.double()
    if not torch.isfinite(found).all():
        return "its probabilities hold NaN or infinity"
    labels = nn.functional.normalize(each.mean(1), dim=-1)
    wanted = probabilities_of(image, labels, scale, bias, kind)
    if _near(found, wanted):
        return ""
    for what, mistaken in _mistakes(image, each, labels, templates, scale, bias, kind):
        if _near(found, mistaken):
            return what
    order = torch.cdist(found.T, wanted.T, p=float("inf")).argmin(1)
    if len(set(order.tolist())) == len(order) and _near(found, wanted[:, order]):
        first = int((order != torch.arange(len(order))).nonzero()[0])
        return (
            f"its labels are in another order: number {first + 1} stands where number {int(order[first]) + 1} belongs"
        )
    return _of_logits(found, wanted, scale, bias, kind)


def _mistakes(
    image: Tensor, each: Tensor, labels: Tensor, templates: tuple[str, ...], scale: float, bias: float, kind: str
) -> Iterator[tuple[str, Tensor]]:
    """(what is wrong, what would then be said)."""
    logits = scale * image @ labels.T + bias
    name, other = ("softmax", "sigmoid") if kind == "softmax" else ("sigmoid", "softmax")
    yield f"it gives logits: the {name} is missing", logits
    yield "it gives cosines: logit scale and probabilities are missing", image @ labels.T
    yield (
        f"it gives the {other} of its logits, and the model is of the kind {kind}",
        (logits.sigmoid() if kind == "softmax" else logits.softmax(-1)),
    )
    if bias:
        yield "the logit bias is missing", probabilities_of(image, labels, scale, 0.0, kind)
    if len(templates) > 1:
        for index, template in enumerate(templates):
            one = probabilities_of(image, each[:, index], scale, bias, kind)
            yield f"it knows the template {template!r} alone, of {len(templates)}", one
        plain = probabilities_of(image, each.mean(1), scale, bias, kind)
        yield "the mean over the templates is not brought to unit length", plain


def _of_logits(found: Tensor, wanted: Tensor, scale: float, bias: float, kind: str) -> str:
    """A scale, or a bias, that is not the model's."""
    if float(found.min()) <= 0 or float(found.max()) > 1:
        return ""
    if kind == "softmax":
        if float((found.sum(-1) - 1).abs().max()) > NEAR:
            return "its probabilities do not add up to 1"
        said, right = (rows.log() - rows.log().mean(-1, keepdim=True) for rows in (found, wanted))
    else:
        said, right = (rows.logit() - bias for rows in (found, wanted))
        constant = said - right
        if float(constant.std()) < ALIKE * float(right.std()):
            return f"its logit bias is {bias + float(constant.mean()):.4g}, and the model's is {bias:.4g}"
    factor = float((said * right).sum() / (right * right).sum())
    if float((said - factor * right).abs().max()) < ALIKE * float(right.abs().max()):
        return f"its logit scale is {scale * factor:.4g}, and the model's is {scale:.4g}"
    return ""


def _near(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) < NEAR

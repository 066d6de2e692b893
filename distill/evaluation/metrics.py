"""Retrieval and zero-shot classification for anything that embeds images and captions: teacher, student, exported file.

Embeddings in, numbers out; percentile bootstrap over queries for the interval. Ties count against the model, so that a
model that maps everything to one point scores zero rather than one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
RESAMPLES = 1000


def interval(hits: Floats, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean, in percent.

    Args:
        hits: [n], 0 or 1 per query.
        seed: of the resampling.

    Returns:
        Its lower and upper end.
    """
    draws = np.random.default_rng(seed).integers(0, len(hits), (RESAMPLES, len(hits)))
    means = hits[draws].mean(1) * 100
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _score(name: str, hits: Floats) -> dict[str, Any]:
    low, high = interval(hits)
    return {name: round(float(hits.mean()) * 100, 3), f"{name}_ci95": [round(low, 3), round(high, 3)]}


def retrieval(image: Floats, text: Floats, owner: NDArray[np.integer[Any]]) -> dict[str, Any]:
    """R@1/5/10 both ways, in percent, with intervals.

    Text to image: each caption's own image must rank in the first k. Image to text: the best-ranked of the image's own
    captions must (the usual protocol with five captions).

    Args:
        image: [N, D], unit length, one row per image.
        text: [M, D], unit length, one row per caption.
        owner: [M], the row of `image` that each caption describes.

    Returns:
        "images" and "captions" (how many), "t2i_r1", "t2i_r5", "t2i_r10" and "i2t_..." in percent, and of each the ends of
        its interval under the same name with "_ci95".
    """
    similarity = text.astype(np.float32) @ image.astype(np.float32).T
    own = similarity[np.arange(len(text)), owner]
    # ">=" counts the own pair once, hence the -1; every tie ranks before it.
    text_rank = (similarity >= own[:, None]).sum(1) - 1
    result: dict[str, Any] = {"images": len(image), "captions": len(text)}
    image_rank = np.full(len(image), len(text))
    for row in range(len(image)):
        own_captions = np.flatnonzero(owner == row)
        best = similarity[own_captions, row].max()
        others = np.delete(similarity[:, row], own_captions)
        image_rank[row] = (others >= best).sum()
    for k in (1, 5, 10):
        result |= _score(f"t2i_r{k}", (text_rank < k).astype(np.float64))
        result |= _score(f"i2t_r{k}", (image_rank < k).astype(np.float64))
    return result


def zero_shot(image: Floats, class_text: Floats, labels: NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Top-1 and top-5 accuracy in percent, with intervals.

    Args:
        image: [N, D], unit length, one row per image.
        class_text: [classes, D], one row per class, as `class_embeddings` makes them.
        labels: [N], the true class of each image.

    Returns:
        "images" and "classes" (how many), "top1" and "top5" in percent, and of each the ends of its interval under the
        same name with "_ci95".
    """
    similarity = image.astype(np.float32) @ class_text.astype(np.float32).T
    own = similarity[np.arange(len(image)), labels]
    rank = (similarity >= own[:, None]).sum(1) - 1
    result: dict[str, Any] = {"images": len(image), "classes": len(class_text)}
    for k in (1, 5):
        result |= _score(f"top{k}", (rank < k).astype(np.float64))
    return result


def class_embeddings(template_text: Floats) -> Floats:
    """Embeddings of every class name in every template as one per class: their mean, unit length (CLIP section 3.1.4).

    Args:
        template_text: [classes, templates, D], unit length.

    Returns:
        [classes, D].
    """
    mean = template_text.mean(1)
    result: Floats = mean / np.linalg.norm(mean, axis=-1, keepdims=True).clip(1e-12)
    return result

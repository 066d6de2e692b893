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
    """95 % percentile bootstrap interval of mean(hits), in percent. hits: [n] of 0 or 1."""
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
        image: [N, D] unit length.
        text: [M, D] unit length.
        owner: [M] row of `image` that each caption describes.
    """
    similarity = text.astype(np.float32) @ image.astype(np.float32).T
    own = similarity[np.arange(len(text)), owner]
    # ">=" counts the own pair once, hence the -1; every tie ranks before it.
    text_rank = (similarity >= own[:, None]).sum(1) - 1
    result: dict[str, Any] = {"images": len(image), "captions": len(text)}
    image_rank = np.full(len(image), len(text))
    for row in range(len(image)):
        mine = np.flatnonzero(owner == row)
        best = similarity[mine, row].max()
        others = np.delete(similarity[:, row], mine)
        image_rank[row] = (others >= best).sum()
    for k in (1, 5, 10):
        result |= _score(f"t2i_r{k}", (text_rank < k).astype(np.float64))
        result |= _score(f"i2t_r{k}", (image_rank < k).astype(np.float64))
    return result


def zero_shot(image: Floats, class_text: Floats, labels: NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Top-1 and top-5 accuracy in percent, with intervals.

    Args:
        image: [N, D] unit length.
        class_text: [C, D] one embedding per class, see `class_embeddings`.
        labels: [N] true class of each image.
    """
    similarity = image.astype(np.float32) @ class_text.astype(np.float32).T
    own = similarity[np.arange(len(image)), labels]
    rank = (similarity >= own[:, None]).sum(1) - 1
    result: dict[str, Any] = {"images": len(image), "classes": len(class_text)}
    for k in (1, 5):
        result |= _score(f"top{k}", (rank < k).astype(np.float64))
    return result


def class_embeddings(template_text: Floats) -> Floats:
    """[C, T, D] embeddings of each class name in each template -> [C, D]: their mean, unit length (CLIP section 3.1.4)."""
    mean = template_text.mean(1)
    result: Floats = mean / np.linalg.norm(mean, axis=-1, keepdims=True).clip(1e-12)
    return result

"""Retrieval and zero-shot classification for anything that embeds images and captions: teacher, student, exported file.

Embeddings in, numbers out; percentile bootstrap over queries for the interval. Ties count against the model, so that a
model that maps everything to one point scores zero rather than one.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
RESAMPLES = 1000


def interval(hits: Floats, groups: NDArray[np.integer[Any]] | None = None, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of mean(hits), in percent.

    Args:
        hits: [n] of 0 or 1; or differences of two models' hits on the same queries (-1, 0, 1), whose interval is a paired one.
        groups: [n], what each hit belongs to (a caption to its image). Whole groups are drawn, since hits within one are not
            independent: the captions of one image are found together or missed together. None = each hit by itself.
    """
    if groups is None:
        groups = np.arange(len(hits))
    _, place = np.unique(groups, return_inverse=True)
    count = np.bincount(place).astype(np.float64)
    found = np.bincount(place, hits)
    draws = np.random.default_rng(seed).integers(0, len(count), (RESAMPLES, len(count)))
    means = found[draws].sum(1) / count[draws].sum(1) * 100
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """Ends of the interval of b - a, each given as (value, low, high): of figures on different draws.

    Made of both figures' own intervals (MOVER: Zou and Donner, Statistics in Medicine 27, 2008); where both are of the same
    queries it is on the safe side, and `interval` of their differences is narrower.
    """
    apart = b[0] - a[0]
    return apart - math.hypot(b[0] - b[1], a[2] - a[0]), apart + math.hypot(b[2] - b[0], a[0] - a[1])


def _score(name: str, hits: Floats, groups: NDArray[np.integer[Any]] | None = None) -> dict[str, Any]:
    low, high = interval(hits, groups)
    return {name: round(float(hits.mean()) * 100, 3), f"{name}_ci95": [round(low, 3), round(high, 3)]}


def retrieval(
    image: Floats, text: Floats, owner: NDArray[np.integer[Any]], caption: NDArray[np.integer[Any]] | None = None
) -> dict[str, Any]:
    """R@1/5/10 both ways, in percent, with intervals over images.

    Text to image: an image that the caption describes must rank in the first k. Image to text: one of the captions that
    describe the image must (the usual protocol with five captions). A caption describes every image that has it.

    Args:
        image: [N, D] unit length.
        text: [M, D] unit length.
        owner: [M] row of `image` that each caption belongs to.
        caption: [M], equal numbers for equal captions; None = all differ.
    """
    return retrieval_figures(*retrieval_ranks(image, text, owner, caption), owner)


def retrieval_figures(
    text_rank: NDArray[np.integer[Any]], image_rank: NDArray[np.integer[Any]], owner: NDArray[np.integer[Any]]
) -> dict[str, Any]:
    """What `retrieval` gives, of ranks as `retrieval_ranks` makes them."""
    result: dict[str, Any] = {"images": len(image_rank), "captions": len(text_rank)}
    for k in (1, 5, 10):
        result |= _score(f"t2i_r{k}", (text_rank < k).astype(np.float64), owner)
        result |= _score(f"i2t_r{k}", (image_rank < k).astype(np.float64))
    return result


def retrieval_ranks(
    image: Floats, text: Floats, owner: NDArray[np.integer[Any]], caption: NDArray[np.integer[Any]] | None = None
) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """How many wrong answers rank before the best right one, of each caption [M] and of each image [N]; as of `retrieval`."""
    similarity = text.astype(np.float32) @ image.astype(np.float32).T
    fits = _describes(owner, np.arange(len(text)) if caption is None else caption, len(image))
    # Of what fits the best counts; every tie of what does not ranks before it.
    best_image = np.where(fits, similarity, -np.inf).max(1)
    best_text = np.where(fits, similarity, -np.inf).max(0)
    text_rank = (~fits & (similarity >= best_image[:, None])).sum(1)
    image_rank = (~fits & (similarity >= best_text[None])).sum(0)
    return text_rank, image_rank


def retrieval_chance(
    owner: NDArray[np.integer[Any]], caption: NDArray[np.integer[Any]], images: int
) -> dict[str, float]:
    """R@1 of an order drawn at random, in percent: "t2i_chance_r1" and "i2t_chance_r1", of arguments as of `retrieval`.

    One in as many as there are, where every caption is of one image; more where captions repeat, since each then has several
    right answers.
    """
    right = _describes(owner, caption, images)
    return {
        "t2i_chance_r1": round(float(right.mean(1).mean()) * 100, 4),
        "i2t_chance_r1": round(float(right.mean(0).mean()) * 100, 4),
    }


def chance_r1(figures: dict[str, Any]) -> float:
    """What chance gives of text-to-image R@1, in percent; `figures` of an older version do not say how captions repeated."""
    return float(figures.get("t2i_chance_r1", 100 / figures["images"]))


def _describes(owner: NDArray[np.integer[Any]], caption: NDArray[np.integer[Any]], images: int) -> NDArray[np.bool_]:
    """[M, N]: whether caption m stands at image n, there or at another of its repeats."""
    distinct, place = np.unique(caption, return_inverse=True)
    stands = np.zeros((len(distinct), images), bool)
    stands[place, owner] = True
    return stands[place]


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
    return zero_shot_figures(zero_shot_ranks(image, class_text, labels), len(class_text))


def zero_shot_figures(rank: NDArray[np.integer[Any]], classes: int) -> dict[str, Any]:
    """What `zero_shot` gives, of ranks as `zero_shot_ranks` makes them."""
    result: dict[str, Any] = {"images": len(rank), "classes": classes}
    for k in (1, 5):
        result |= _score(f"top{k}", (rank < k).astype(np.float64))
    return result


def per_class(
    rank: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What `zero_shot_figures` counts, of each class that has images: name -> "images" and "top1" in percent.

    Args:
        rank: [N], as `zero_shot_ranks` makes them.
        labels: [N], the true class of each image.
        names: of the classes.
    """
    hits = rank == 0
    return {
        names[label]: {
            "images": int((labels == label).sum()),
            "top1": round(float(hits[labels == label].mean()) * 100, 3),
        }
        for label in np.unique(labels)
    }


def zero_shot_ranks(image: Floats, class_text: Floats, labels: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """How many wrong classes rank before the true one, of each image [N]; as of `zero_shot`."""
    similarity = image.astype(np.float32) @ class_text.astype(np.float32).T
    own = similarity[np.arange(len(image)), labels]
    rank: NDArray[np.integer[Any]] = (similarity >= own[:, None]).sum(1) - 1
    return rank


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

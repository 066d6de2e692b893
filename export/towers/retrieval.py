"""What an exported tower costs in retrieval: recall at 1 of the eager model less the file's on the same pairs, with an interval.

Left out: how good the model is (evaluation); how near single embeddings are (parity).
"""

from dataclasses import dataclass

import numpy as np

from distill.core.arrays import Array

ENOUGH_PAIRS = 30  # below it a bootstrap over pairs promises more than it holds, and one pair is more than three points
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class RetrievalDrop:
    """Points (percent) of recall at 1 that are lost; negative where the file does better by chance.

    Attributes:
        points: over all pairs.
        low, high: 95 % interval, by a paired bootstrap over pairs.
        pairs: how many images with a caption, or a class, of their own.
    """

    points: float
    low: float
    high: float
    pairs: int


def retrieval_drop(
    eager: tuple[Array, Array], exported: tuple[Array, Array], tokens: Array, fits: Array
) -> RetrievalDrop | None:
    """What is lost with the exported embeddings in place of the eager ones.

    Where every image has a caption of its own, a pair's figure is the mean of both directions; where images share captions, as with
    prompts of classes, it is the image's alone: top-1 of zero-shot classification.

    Args:
        eager, exported: images [n, D] and texts [m, D], each row of the same input in both; a runtime that is slow here may have
            been given the first rows alone, and then the eager rows behind them do not count either.
        tokens: [m, L] of the texts, by which equal captions are known.
        fits: [n] the row of `tokens` that describes each image; -1 = none does.

    Returns None where fewer than two images are described, or all by the same words.
    """
    images, texts = len(exported[0]), len(exported[1])
    eager = (eager[0][:images], eager[1][:texts])
    fits = fits[:images].astype(np.int64)
    fits = np.where(fits < texts, fits, -1)
    pairs = np.flatnonzero(fits >= 0)
    _, words = np.unique(tokens[:texts], axis=0, return_inverse=True)
    words = words.reshape(-1)
    if len(pairs) < 2 or len(np.unique(words[fits[pairs]])) < 2:
        return None
    of = fits[pairs]
    right = words[of][:, None] == words[None, :]  # [pairs, m]
    both_ways = len(np.unique(words[of])) == len(of)
    lost = _hits(eager, pairs, of, right, both_ways) - _hits(exported, pairs, of, right, both_ways)
    draws = np.random.default_rng(SEED).integers(0, len(lost), (RESAMPLES, len(lost)))
    means = lost[draws].mean(1) * 100
    low, high = np.quantile(means, [0.025, 0.975])
    return RetrievalDrop(float(lost.mean() * 100), float(low), float(high), len(pairs))


def _hits(towers: tuple[Array, Array], pairs: Array, of: Array, right: Array, both_ways: bool) -> Array:
    """[pairs]: whether the nearest answer is right, meaned over the directions. Ties, and what is no number, count against."""
    image, text = (np.where(np.isfinite(rows).all(1, keepdims=True), rows, 0).astype(np.float64) for rows in towers)
    similarity = image[pairs] @ text.T
    best_right = np.where(right, similarity, -np.inf).max(1)
    best_wrong = np.where(right, -np.inf, similarity).max(1)
    hits: Array = (best_right > best_wrong).astype(np.float64)
    if both_ways:
        square = similarity[:, of]  # images against the captions of the pairs: the right ones lie on the diagonal
        np.fill_diagonal(others := square.copy(), -np.inf)
        hits = (hits + (np.diagonal(square) > others.max(0))) / 2
    return hits

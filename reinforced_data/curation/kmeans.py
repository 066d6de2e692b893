"""Spherical k-means on unit vectors that lie in a file: learnt on a seeded sample, then every row assigned in blocks.

Our own, because the libraries at hand (scikit-learn, faiss) either average in a thread-dependent order or are one more
compiled dependency, and neither reads from a file in blocks. Left out: restarts, and triangle-inequality speed-ups.
"""

import numpy as np

from distill.core.arrays import Array
from distill.core.streams import Stream, rng

SAMPLE_PER_CENTROID = 128  # 200 MB of sample for k = 500 at D = 768
ITERATIONS = 25
BLOCK = 4096


def spherical_kmeans(vectors: Array, k: int, seed: int) -> Array:
    """k unit-length centroids of `vectors` ([n, D] unit-length float32, n >= k): [k, D] float32.

    k-means++ start, then up to ITERATIONS rounds of Lloyd with centroids brought back to unit length; an empty cluster
    restarts at the vector that is farthest from its centroid. Deterministic for one seed.
    """
    draws = rng(Stream.CLUSTERS, seed)
    count = min(len(vectors), k * SAMPLE_PER_CENTROID)
    sample = np.asarray(vectors[np.sort(draws.permutation(len(vectors))[:count])])
    centroids = _plus_plus(sample, k, draws)
    before = None
    for _ in range(ITERATIONS):
        nearest, cosine = assign(sample, centroids)
        if before is not None and np.array_equal(nearest, before):
            break
        before = nearest
        centroids = _means(sample, nearest, cosine, k)
    return centroids


def assign(vectors: Array, centroids: Array, ranks: int = 1) -> tuple[Array, Array]:
    """The nearest centroid of every vector and their cosine: [n] int64, [n] float32.

    With ranks = r > 1, the r nearest, best first: [n, r] both. One block of vectors is in memory at a time.
    """
    places = np.empty((len(vectors), ranks), np.int64)
    cosines = np.empty((len(vectors), ranks), np.float32)
    for start in range(0, len(vectors), BLOCK):
        part = np.asarray(vectors[start : start + BLOCK]) @ centroids.T
        order = np.argsort(-part, axis=1, kind="stable")[:, :ranks]
        places[start : start + BLOCK] = order
        cosines[start : start + BLOCK] = np.take_along_axis(part, order, 1)
    return (places[:, 0], cosines[:, 0]) if ranks == 1 else (places, cosines)


def _plus_plus(sample: Array, k: int, draws: np.random.Generator) -> Array:
    chosen = [int(draws.integers(len(sample)))]
    distance = np.full(len(sample), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(1 - (sample @ sample[chosen[-1]]).astype(np.float64), 0))
        distance[chosen[-1]] = 0
        mass = np.cumsum(distance)
        if mass[-1] <= 0:  # fewer than k distinct vectors: any that is not yet chosen
            left = np.setdiff1d(np.arange(len(sample)), chosen)
            chosen.append(int(left[0]))
        else:
            chosen.append(int(np.searchsorted(mass, draws.random() * mass[-1], side="right").clip(0, len(sample) - 1)))
    return sample[chosen].copy()


def _means(sample: Array, nearest: Array, cosine: Array, k: int) -> Array:
    order = np.argsort(nearest, kind="stable")
    sizes = np.bincount(nearest, minlength=k)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    means = np.zeros((k, sample.shape[1]), np.float64)
    full = np.flatnonzero(sizes)
    means[full] = np.add.reduceat(sample[order].astype(np.float64), starts[full], axis=0)
    empty = np.flatnonzero(sizes == 0)
    means[empty] = sample[np.argsort(cosine, kind="stable")[: len(empty)]]
    norm = np.linalg.norm(means, axis=1, keepdims=True)
    return (means / np.where(norm == 0, 1, norm)).astype(np.float32)

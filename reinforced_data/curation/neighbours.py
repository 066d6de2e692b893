"""Near neighbours among unit vectors in a file, and the groups that pairs of neighbours make."""

from collections.abc import Iterator

import numpy as np

from distill.core.arrays import Array
from reinforced_data.curation.kmeans import assign, spherical_kmeans

EXACT_ROWS = 100_000  # above this, vectors are compared inside clusters only
CLUSTER_ROWS = 10_000
BLOCK = 2048
TOLERANCE = 1e-6  # of a cosine, float32 arithmetic


class Groups:
    """Rows joined by pairs: connected components, 8 bytes a row.

    Attributes:
        labels: [n] int64, equal for rows of one group.
    """

    def __init__(self, rows: int) -> None:
        self.labels = np.arange(rows)

    def join(self, left: Array, right: Array) -> None:
        """Rows left[p] and right[p] belong together, for every p."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if len(left):
            a, b = self.labels[left], self.labels[right]
            shape = (len(self.labels), len(self.labels))
            graph = coo_array((np.ones(len(a), bool), (a, b)), shape=shape)
            self.labels = connected_components(graph, directed=False)[1].astype(np.int64)[self.labels]

    def keepers(self, keys: list[str]) -> Array:
        """For each row the row of its group with the lowest key: [n] int64."""
        order = np.argsort(np.asarray(keys, dtype=object), kind="stable")
        _, first, group = np.unique(self.labels[order], return_index=True, return_inverse=True)
        kept = np.empty(len(keys), np.int64)
        kept[order] = order[first[group]]
        return kept


def near_pairs(vectors: Array, minimum: float, seed: int) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Blocks of pairs of rows with cosine >= minimum, and every row's best cosine so far.

    Every pair is compared up to EXACT_ROWS rows. Beyond that, as in SemDeDup (arXiv:2303.09540), only rows that share a
    k-means cluster are; each row goes to its two nearest clusters, so that pairs on a border are rarely missed.

    Args:
        vectors: [n, D] unit-length float32; blocks of 2 x BLOCK rows are in memory at a time.

    Yields:
        (i, j, rows, best): pairs i[p], j[p], and for `rows` the highest cosine to another row of the part compared.
    """
    if len(vectors) <= EXACT_ROWS:
        yield from _within(vectors, np.arange(len(vectors)), minimum)
        return
    centroids = spherical_kmeans(vectors, -(-len(vectors) // CLUSTER_ROWS), seed)
    nearest, _ = assign(vectors, centroids, 2)
    for cluster in range(len(centroids)):
        yield from _within(vectors, np.flatnonzero((nearest == cluster).any(1)), minimum)


def _within(vectors: Array, members: Array, minimum: float) -> Iterator[tuple[Array, Array, Array, Array]]:
    parts = [members[start : start + BLOCK] for start in range(0, len(members), BLOCK)]
    for place, rows in enumerate(parts):
        left = np.asarray(vectors[rows])
        for other, columns in enumerate(parts[place:]):
            cosine = left @ (left if other == 0 else np.asarray(vectors[columns])).T
            if other == 0:
                np.fill_diagonal(cosine, -np.inf)
            i, j = np.nonzero(cosine >= minimum - TOLERANCE)
            yield rows[i], columns[j], rows, cosine.max(1)
            if other:
                yield rows[:0], rows[:0], columns, cosine.max(0)


def nearest_of(vectors: Array, others: Array) -> tuple[Array, Array]:
    """For every row of `vectors` [n, D] its nearest row of `others` [m, D]: (places [n], cosines [n] float32)."""
    places, best = np.zeros(len(vectors), np.int64), np.full(len(vectors), -np.inf, np.float32)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, min(start + BLOCK, len(vectors)))
        left = np.asarray(vectors[rows])
        for first in range(0, len(others), BLOCK):
            cosine = left @ np.asarray(others[first : first + BLOCK]).T
            place = cosine.argmax(1)
            value = np.take_along_axis(cosine, place[:, None], 1)[:, 0]
            better = value > best[rows]
            places[rows] = np.where(better, place + first, places[rows])
            best[rows] = np.where(better, value, best[rows])
    return places, best

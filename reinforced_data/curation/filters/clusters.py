"""Prune clusters of images, simple concepts more than complex ones, the most typical members first."""

import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
from pydantic import Field

from distill.core.arrays import Array
from distill.core.errors import UsageError
from reinforced_data.curation.filter import FILTERS, Filter, Outcome, Rows, fraction_of
from reinforced_data.curation.kmeans import assign, spherical_kmeans
from reinforced_data.curation.quota import quotas


@FILTERS.register("clusters")
class Clusters(Filter):
    """Cluster pruning with a quota per cluster by its complexity (density-based pruning, arXiv:2401.04578).

    Images are clustered by their mean stored embedding. A cluster's complexity is C_j = d_inter,j * d_intra,j: its mean
    cosine distance to the nearest other centroids, times that of its members to their own. It is entitled to the share
    P_j = softmax(C_j / temperature) of the samples kept; the counts are the solution of the quadratic programme
    min sum_j (x_j - P_j N)^2 with sum_j x_j = N and 1 <= x_j <= M_j, as in the authors' released prune.py. Within a
    cluster the samples farthest from the centroid are kept, equals by key. Their best: k = 500 on 280 million images,
    100 on DataComp medium, after removal of duplicates (chain `duplicates` first). About 30 bytes a sample in memory
    (30 MB per million), a sample of 128 k vectors, and a temporary file of 4 D bytes a sample.
    """

    k: int = Field(100, ge=2, description="clusters")
    keep: Decimal = Field(..., gt=0, le=1, description="fraction of the incoming samples")
    teacher: str | None = Field(None, description="None = the set's first")
    temperature: float = Field(0.1, gt=0)
    neighbours: int = Field(20, ge=1, description="nearest centroids that d_inter is the mean over")

    def select(self, rows: Rows, seed: int) -> Outcome:
        """Drop the most typical members of each cluster. Raises UsageError when there are fewer samples than clusters."""
        if self.k > len(rows):
            raise UsageError(f"filter 'clusters': k={self.k} clusters of {len(rows)} samples. Give a smaller k.")
        teacher = rows.teacher(self.teacher)
        with tempfile.TemporaryDirectory(prefix="distill-") as folder:
            vectors = rows.image_matrix(teacher, Path(folder))
            centroids = spherical_kmeans(vectors, self.k, seed)
            cluster, cosine = assign(vectors, centroids)
            del vectors
        distance = 1 - cosine.astype(np.float64)
        sizes = np.bincount(cluster, minlength=self.k)
        d_intra = np.bincount(cluster, distance, self.k) / np.maximum(sizes, 1)
        d_inter = between(centroids, self.neighbours)
        share = shares(d_inter * d_intra, self.temperature)
        total = fraction_of(self.keep, len(rows))
        counts = quotas(share * total, sizes, total)
        typical = np.ones(len(rows), bool)
        typical[_farthest(distance, cluster, rows.keys, counts)] = False
        facts = {
            "clusters": [
                {"size": int(m), "kept": int(x), "d_inter": float(e), "d_intra": float(a), "share": float(p)}
                for m, x, e, a, p in zip(sizes, counts, d_inter, d_intra, share, strict=True)
            ]
        }
        return Outcome(
            {"typical of a cluster over its quota": typical},
            distance,
            f"cosine distance to the centroid by {teacher}",
            facts=facts,
        )


def between(centroids: Array, neighbours: int) -> Array:
    """d_inter: each centroid's mean cosine distance to its `neighbours` nearest others, [k] float64."""
    wide = centroids.astype(np.float64)
    distance = 1 - wide @ wide.T
    np.fill_diagonal(distance, np.inf)
    nearest: Array = np.sort(distance, axis=1)[:, : min(neighbours, len(centroids) - 1)].mean(1)
    return nearest


def shares(complexity: Array, temperature: float) -> Array:
    """P_j = softmax(C_j / temperature), [k] float64."""
    weights = np.exp((complexity - complexity.max()) / temperature)
    shared: Array = weights / weights.sum()
    return shared


def _farthest(distance: Array, cluster: Array, keys: list[str], counts: Array) -> Array:
    """Places of the rows that are kept: in cluster j the counts[j] farthest, equals by key."""
    rank = np.empty(len(keys), np.int64)
    rank[np.argsort(np.asarray(keys, dtype=object), kind="stable")] = np.arange(len(keys))
    order = np.lexsort((rank, -distance, cluster))
    sizes = np.bincount(cluster, minlength=len(counts))
    within = np.arange(len(keys)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept: Array = order[within < counts[cluster[order]]]
    return kept

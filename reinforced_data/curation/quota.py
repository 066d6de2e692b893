"""How many samples each cluster may keep: the integer solution of the quadratic programme of concept pruning."""

import numpy as np

from distill.core.arrays import Array


def quotas(wanted: Array, sizes: Array, total: int) -> Array:
    """Whole numbers x_j nearest to `wanted` (least squares) with sum x_j = total and least_j <= x_j <= sizes_j.

    least_j is 1 for clusters that are not empty, while `total` reaches for that, else 0. The real-valued optimum is
    wanted_j + shift, clipped; whole numbers come of it by rounding down and giving what is left to the largest
    fractions, which is optimal because every term has the same curvature.

    Args:
        wanted: [k] float, P_j * total. sizes: [k] int, samples per cluster. total: at most sizes.sum().
    """
    sizes = sizes.astype(np.int64)
    total = min(int(total), int(sizes.sum()))
    least = np.minimum(sizes, 1) if total >= np.count_nonzero(sizes) else np.zeros_like(sizes)
    low, high = float((least - wanted).min()), float((sizes - wanted).max())
    for _ in range(200):  # the sum rises with the shift; bisection to the last bit
        shift = (low + high) / 2
        if np.clip(wanted + shift, least, sizes).sum() < total:
            low = shift
        else:
            high = shift
    real = np.clip(wanted + high, least, sizes)
    # A hair above, or a whole number that came out as 2.9999999 would be rounded down to 2.
    counts = np.clip(np.floor(real + 1e-9), least, sizes).astype(np.int64)
    rest = total - int(counts.sum())
    if rest > 0:
        order = np.lexsort((np.arange(len(real)), -(real - counts)))
        open_ = order[counts[order] < sizes[order]]
        counts[open_[:rest]] += 1
    elif rest < 0:  # the hair lifted more than one cluster over the border
        order = np.lexsort((np.arange(len(real)), real - counts))
        open_ = order[counts[order] > least[order]]
        counts[open_[:-rest]] -= 1
    return counts

"""How near a classifier's file comes to the eager model: its probabilities are compared, and its most probable labels."""

import numpy as np

from distill.core.arrays import Array
from export.artifacts.record import ParityReport

TIE = 0.01  # of a probability


def compare_probabilities(exported: Array, eager: Array, checked_by: str) -> ParityReport:
    """Compare a classifier file with the eager model.

    A label counts as the most probable one where the eager model puts it within `TIE` and within a tenth of that.

    Args:
        exported: [n, k] probabilities of the file.
        eager: [n, k] of the eager model, same pictures.
        checked_by: how `exported` was computed.
    """
    difference = np.abs(exported.astype(np.float64) - eager)
    taken = np.take_along_axis(eager, np.nan_to_num(exported).argmax(axis=1)[:, None], axis=1)
    largest = eager.max(axis=1, keepdims=True)
    same = (taken >= largest - np.minimum(TIE, largest / 10)).all(axis=1)
    finite = np.isfinite(exported)
    return ParityReport(
        checked_by=checked_by,
        cosine_min=None,
        cosine_mean=None,
        top1_agreement=float((same & finite.all(axis=1)).mean()),
        samples=len(eager),
        probability_difference=float(np.where(finite, difference, 1.0).max()),
    )

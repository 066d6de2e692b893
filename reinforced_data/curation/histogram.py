"""The histogram of a filter's scores, kept and dropped apart: as numbers for a file, as text for a terminal."""

from typing import Any

import numpy as np

from distill.core.arrays import Array

BINS = 20


def histogram(scores: Array, keep: Array, name: str) -> dict[str, Any]:
    """{"score", "edges" [BINS + 1], "kept" [BINS], "dropped" [BINS], "without_score"} of [n] scores and [n] flags."""
    known = np.isfinite(scores)
    values, kept = scores[known], keep[known]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if not high - low > 1e-12 * max(abs(low), abs(high), 1e-300):
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    return {
        "score": name,
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "kept": np.histogram(values[kept], edges)[0].tolist(),
        "dropped": np.histogram(values[~kept], edges)[0].tolist(),
        "without_score": int((~known).sum()),
    }


def histogram_lines(drawn: dict[str, Any], width: int = 50) -> list[str]:
    """One line per bin: its lower edge, a bar (# kept, . dropped), and both counts."""
    kept, dropped, edges = drawn["kept"], drawn["dropped"], drawn["edges"]
    most = max([a + b for a, b in zip(kept, dropped, strict=True)], default=0) or 1
    lines = [f"{drawn['score']}  (# kept, . dropped; a full bar is {most})"]
    for low, a, b in zip(edges, kept, dropped, strict=False):
        whole = -(-(a + b) * width // most)  # rounded up, so that one sample shows
        hashes = min(whole, -(-a * width // most))
        lines.append(f"{low:>10.4g} |{'#' * hashes}{'.' * (whole - hashes)}".ljust(12 + width) + f" {a} + {b}")
    lines.append(f"{edges[-1]:>10.4g}")
    if drawn["without_score"]:
        lines.append(f"without a score: {drawn['without_score']}")
    return lines

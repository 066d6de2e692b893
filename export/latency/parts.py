"""Where a predicted latency goes: milliseconds per kind of operation, and where each is known to run.

The shares are those of the roofline, scaled to the predicted whole. Nothing here was measured: a place is "CPU" or "may leave
the NPU" where that is published of such an operation (`export.latency.lints`), and else taken to be the NPU's. Left out: single
operations, of which no figures are published.
"""

from typing import Any

from export.latency.devices import find_chip
from export.latency.fit.roofline import shares
from export.latency.graph.features import MOVERS, PRODUCTS, Operations, mover_of, pack
from export.latency.lints import placement_lints
from export.latency.predictor import Predictor
from export.latency.rows import Group, precision_of, runtime_of

WORDS = {
    "conv": "convolutions", "conv1": "1 x 1 convolutions", "dw": "depthwise convolutions", "grp": "grouped convolutions",
    "lin": "linear layers", "bmm": "products of activations", "elt": "element-wise", "residual": "residual sums",
    "act": "light activations", "heavy": "GELU and the like", "norm": "norms", "bn": "BatchNorms", "softmax": "softmaxes",
    "pool": "pooling", "reduce": "means and sums", "cat": "concatenations", "permute": "transposes", "copy": "copies",
    "gather": "look-ups of tokens", "io": "input and output", "call": "calls", "view": "reshapes", "start": "starting",
}  # fmt: skip
CLASSES = (*PRODUCTS, *MOVERS, "call", "view", "start")
# What a lint is about -> the class of operations that may leave the NPU.
LEAVES = {
    "ANE-RANK": "view", "ANE-SHUFFLE": "permute", "ANE-UNFOLD": "copy", "NPU-LINEAR-ATTENTION": "bmm",
    "ANE-SEPARABLE-ATTENTION": "softmax",
}  # fmt: skip
LEAST = 0.005  # share of the whole below which a class is not told


def parts(
    predictor: Predictor, device: str, operations: Operations, precision: str, whole_ms: float
) -> list[dict[str, Any]]:
    """Rows of {"name", "count", "ms", "place"}, the most expensive first, that add up to nearly `whole_ms`.

    Args:
        device: as `find_chip` takes it.
        whole_ms: what is predicted for the tower.

    Raises UsageError for an unknown device or precision.
    """
    chip = find_chip(device)
    group = Group(chip.name, runtime_of("", chip.unit), precision_of(precision))
    unit, theta, kept = predictor.costs(chip, group)
    each = shares(theta, pack([operations]), kept)[0]
    off = {LEAVES[lint.rule] for lint in placement_lints(operations, unit) if lint.rule in LEAVES}
    found = []
    for name, share in zip(CLASSES, (each / each.sum()).tolist(), strict=True):
        if share >= LEAST or name in off:
            place = "may leave the NPU" if name in off else "CPU" if name == "gather" and unit == "ANE" else unit
            found.append(
                {
                    "name": WORDS[name],
                    "count": _count(name, operations),
                    "ms": round(whole_ms * share, 4),
                    "place": place,
                }
            )
    return sorted(found, key=lambda row: -float(row["ms"]))


def _count(name: str, operations: Operations) -> int:
    """How many operations of a class there are; 1 of what every inference pays."""
    if name in ("call", "start"):
        return 1
    return sum(
        times
        for op, times in operations.items()
        if (
            op.kind == name
            if name in (*PRODUCTS, "view")
            else op.kind not in (*PRODUCTS, "view") and mover_of(op) == name
        )
    )

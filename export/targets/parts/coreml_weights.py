"""Core ML weights in fewer bits: int8 with a scale per output channel, or indices into palettes.

A palette of 256 or 64 values serves a whole weight; one of 16 values, which would lose too much, serves `GROUP` output channels
and needs iOS 18. Computing stays in fp16, and so do small tensors. Left out: pruning, activations, mixed precision.
"""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from export.mil.coremltools import import_coremltools

if TYPE_CHECKING:
    from distill.core.arrays import Array
    from export.targets.parts.kept import Kept

GROUP = 16  # output channels that share a palette of 16 values
BITS = {"p8": 8, "p6": 6, "p4": 4}
WEIGHTS_OF = ("conv", "linear", "matmul", "gather")  # operations whose constants are weights, not masks or positions
STEPS = 100  # of k-means at most; it ends when no value changes its palette entry


def compress(model: Any, precision: str, *, labels: bool = False, spared: frozenset[str] = frozenset()) -> Any:
    """A Core ML model with its weights in fewer bits, the same for the same model.

    Args:
        model: an `MLModel` of an ML Program in fp16; for "p4" one for iOS 18.
        precision: "w8", "w8a8" (its weights are those of "w8"), "p8", "p6" or "p4".
        labels: whether it ends in a classifier's labels, one row each. They stay as they are in palettes: they are the smaller
            part of a file, and a palette has few values for what tells one label from another.
        spared: names of operations whose weights stay as they are.
    """
    import_coremltools()
    from coremltools.optimize import coreml as optimize

    logging.getLogger("coremltools").setLevel(logging.ERROR)  # a weight that stays as it is, is no news
    if precision in ("w8", "w8a8"):
        config: Any = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", granularity="per_channel")
        return optimize.linear_quantize_weights(model, _for_weights(config, spared))
    bits = BITS[precision]
    spared = spared | {_last_weights(model)} if labels else spared

    def palette_of(values: "Array") -> "tuple[Array, Array]":
        return palette(values, bits)

    whole = optimize.OpPalettizerConfig(mode="custom", lut_function=palette_of, granularity="per_tensor")
    if bits > 4:
        return optimize.palettize_weights(model, _for_weights(whole, spared))
    grouped = optimize.OpPalettizerConfig(
        mode="custom", lut_function=palette_of, granularity="per_grouped_channel", group_size=GROUP
    )
    # What `grouped` cannot take, a channel count that is no multiple, is a constant still and gets one palette.
    first = optimize.palettize_weights(model, _for_weights(grouped, spared))
    return optimize.palettize_weights(first, _for_weights(whole, spared))


def readers(model: Any, kept: "Kept") -> frozenset[str]:
    """Names of the operations that read a weight which is kept."""
    names = set()
    for op in model._mil_program.functions["main"].operations if kept.names else ():
        if op.op_type in WEIGHTS_OF:
            constants = [value.val for value in op.inputs.values() if getattr(value, "val", None) is not None]
            if any(
                isinstance(value, np.ndarray) and value.dtype.kind == "f" and kept.holds(value) for value in constants
            ):
                names.add(op.name)
    return frozenset(names)


def _for_weights(config: Any, spared: frozenset[str]) -> Any:
    from coremltools.optimize.coreml import OptimizationConfig

    # An operation's own configuration stands before that of its type.
    return OptimizationConfig(
        op_type_configs=dict.fromkeys(WEIGHTS_OF, config), op_name_configs=dict.fromkeys(sorted(spared))
    )


def _last_weights(model: Any) -> str:
    """The name of the last operation that multiplies with weights."""
    function = model.get_spec().mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    return str(
        [op.attributes["name"] for op in operations if op.type in WEIGHTS_OF][-1].immediateValue.tensor.strings.values[
            0
        ]
    )


def palette(values: "Array", bits: int) -> "tuple[Array, Array]":
    """The palette of 2^bits values nearest to `values` (k-means), and each one's index in it.

    Args:
        values: floats of any shape.

    Returns:
        [2^bits] of the same type, in ascending order, and uint8 of the flattened values.
    """
    distinct, place, count = np.unique(values.reshape(-1), return_inverse=True, return_counts=True)
    size, exact = 1 << bits, distinct.astype(np.float64)
    if len(distinct) <= size:
        found = np.concatenate([distinct, np.repeat(distinct[-1:], size - len(distinct))])
        return found, place.reshape(-1).astype(np.uint8)
    mass = np.concatenate([[0], np.cumsum(count)])
    moment = np.concatenate([[0.0], np.cumsum(exact * count)])
    centres = _merged(exact.copy(), count.astype(np.float64), size)
    edges = np.zeros(0, np.int64)
    for _ in range(STEPS):
        cuts = np.searchsorted(exact, (centres[1:] + centres[:-1]) / 2)
        if np.array_equal(cuts, edges):
            break
        edges = cuts
        first, last = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(exact)]])
        weight = mass[last] - mass[first]
        centres = np.where(weight > 0, (moment[last] - moment[first]) / np.maximum(weight, 1), centres)
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, exact).astype(np.uint8)
    return centres.astype(values.dtype), nearest[place.reshape(-1)]


def _merged(centres: "Array", weight: "Array", size: int) -> "Array":
    """Ascending weighted values merged with their neighbours, cheapest first (Ward, 1963), until `size` are left."""
    while len(centres) > size:
        both = weight[1:] + weight[:-1]
        cost = weight[1:] * weight[:-1] / both * np.square(np.diff(centres))
        padded = np.concatenate([[np.inf], cost, [np.inf]])
        lowest = np.flatnonzero((cost <= padded[2:]) & (cost < padded[:-2]))  # no two of them are neighbours
        most = min(len(centres) - size, max(1, len(centres) // 8))
        first = np.sort(lowest[np.argsort(cost[lowest], kind="stable")[:most]])
        total = centres * weight
        centres[first] = (total[first] + total[first + 1]) / both[first]
        weight[first] = both[first]
        centres, weight = np.delete(centres, first + 1), np.delete(weight, first + 1)
    return centres

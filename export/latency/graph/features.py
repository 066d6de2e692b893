"""Operations of several models as arrays: what a roofline needs of them, and nothing else."""

import functools
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distill.core import atomic
from export.latency.graph.kinds import LIGHT_ACTIVATIONS
from export.latency.graph.trace import Op

Operations = Mapping[Op, int]
PRODUCTS = ("conv", "conv1", "dw", "grp", "lin", "bmm")
MOVERS = (
    "elt", "residual", "act", "heavy", "norm", "bn", "softmax", "pool", "reduce", "cat", "permute", "copy", "gather", "io",
)  # fmt: skip
TILE = 64  # rows and columns of what NPUs multiply at once; a product of activations is padded to it
REDUCERS = {"mean", "sum", "amax", "amin", "max", "min", "var", "var_mean", "linalg_vector_norm", "norm"}
LOOKUPS = {"embedding", "gather", "index_select", "index"}
PUBLISHED = Path(__file__).parents[1] / "data" / "features.json.gz"


@dataclass(frozen=True)
class Pack:
    """Operations of `n` models. One row of the first seven per distinct product; the others [n, ...].

    Attributes:
        model, kind: int64, which model, which of PRODUCTS.
        flops: two per multiply-add; of a "bmm" with its sides padded to TILE, of a depthwise as if its cost grew with the
            kernel's side, since runtimes vectorise over the taps.
        inner, outer: summed and output channels.
        weights, traffic: elements of weights; of activations read and written.
        times: how often it occurs.
        moved: elements that pass through each of MOVERS.
        calls: memory operations that stand alone.
        views: reshapes and slices.
    """

    n: int
    model: Tensor
    kind: Tensor
    flops: Tensor
    inner: Tensor
    outer: Tensor
    weights: Tensor
    traffic: Tensor
    times: Tensor
    moved: Tensor
    calls: Tensor
    views: Tensor


def pack(models: Sequence[Operations]) -> Pack:
    """Arrays of the models' operations, float64, in their order."""
    products: list[tuple[float, ...]] = []
    moved, calls, views = [], [], []
    for index, operations in enumerate(models):
        passed = dict.fromkeys(MOVERS, 0.0)
        alone = seen = 0
        for op, times in operations.items():
            if op.kind in PRODUCTS:
                kind = PRODUCTS.index(op.kind)
                products.append((index, kind, _flops(op), op.inner, op.outer, op.weights, op.reads + op.writes, times))
            elif op.kind == "view":
                seen += times
            elif mover := mover_of(op):
                passed[mover] += (op.reads + op.writes) * times
                alone += 0 if op.fused or op.kind == "io" else times
        moved.append(list(passed.values()))
        calls.append(alone)
        views.append(seen)
    columns = torch.tensor(products, dtype=torch.float64).reshape(-1, 8).T
    index, kind, flops, inner, outer, weights, traffic, count = columns
    return Pack(
        len(models), index.long(), kind.long(), flops, inner.clamp(min=1), outer.clamp(min=1), weights, traffic, count,
        torch.tensor(moved, dtype=torch.float64).reshape(-1, len(MOVERS)),
        torch.tensor(calls, dtype=torch.float64), torch.tensor(views, dtype=torch.float64),
    )  # fmt: skip


def _flops(op: Op) -> float:
    if op.kind == "bmm":
        return 2.0 * op.groups * math.prod(math.ceil(side / TILE) * TILE for side in (op.rows, op.inner, op.outer))
    if op.kind == "dw":
        return 2.0 * op.macs * 3 / max(1.0, math.sqrt(op.inner))
    return 2.0 * op.macs


def mover_of(op: Op) -> str:
    """Which of MOVERS an operation is; "" where a runtime does it inside the product before."""
    if op.kind == "act":
        light = op.name in LIGHT_ACTIVATIONS
        return ("" if op.fused else "act") if light else "heavy"
    if op.kind == "bn":
        return "" if op.fused else "bn"
    if op.kind == "elt":
        return "residual" if op.fused else "elt"
    if op.kind == "pool":
        return "reduce" if op.name in REDUCERS or op.writes * 16 <= op.reads else "pool"
    if op.kind == "move":
        if op.name in ("cat", "stack"):
            return "cat"
        return "permute" if op.name in ("permute", "shuffle") else "gather" if op.name in LOOKUPS else "copy"
    return op.kind


def totals(operations: Operations) -> dict[str, float]:
    """Sums over a tower: "gmacs", "mweights" (millions, without lookup tables), "moved" (millions of elements), "ops"."""
    real = {op: times for op, times in operations.items() if op.kind not in ("view", "io")}
    return {
        "gmacs": sum(op.macs * times for op, times in real.items()) / 1e9,
        "mweights": sum(op.weights * times for op, times in real.items()) / 1e6,
        "moved": sum((op.reads + op.writes) * times for op, times in real.items()) / 1e6,
        "ops": float(sum(times for op, times in real.items() if not op.fused)),
    }


def write_features(path: Path, models: Mapping[str, Operations]) -> None:
    """Store each model's operations by its key, for `read_features`."""
    value = {key: [[list(op), times] for op, times in operations.items()] for key, operations in models.items()}
    atomic.write_bytes(path, gzip.compress(json.dumps(value, separators=(",", ":")).encode(), mtime=0))


def read_features(path: Path) -> dict[str, Operations]:
    """What `write_features` stored. Raises OSError or ValueError where that is not what the file holds."""
    value = json.loads(gzip.decompress(path.read_bytes()))
    return {key: {Op(*op): times for op, times in operations} for key, operations in value.items()}


@functools.cache
def published_features() -> dict[str, Operations]:
    """Operations of every model in the published rows, which come with the package: nothing is built for them."""
    return read_features(PUBLISHED)


def known_as(operations: Operations) -> str:
    """The published model of the same operations, so that its own latencies count; "" where none is."""
    return next((key for key, known in published_features().items() if known == operations), "")

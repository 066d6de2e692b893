"""What a tower computes, as a list of operations with their sizes: the raw material of every prediction.

The tower runs once on the meta device, so that no number is computed and no weight exists; each ATen call is recorded as
an `Op`. Left out: what an exporter does to the graph beyond folding BatchNorms and constants, which every phone runtime
does alike.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import override

from export.latency.graph.kinds import (
    ACTIVATIONS,
    BATCH_NORMS,
    CONVOLUTIONS,
    COPIES,
    FREE,
    MOVES,
    NORMS,
    PERMUTATIONS,
    PRODUCTS,
    REDUCTIONS,
    SUMS,
    VIEWS,
)


class Op(NamedTuple):
    """One operation, in elements (not bytes) and multiply-adds.

    Attributes:
        kind: "conv" (kernel over 1x1), "conv1" (1x1, or a layer over the channels of [b, H, W, C]), "dw" (depthwise), "grp"
            (grouped), "lin" (a product with weights), "bmm" (of two activations), "act", "norm", "bn" (not foldable), "softmax",
            "pool", "move" (copies), "elt", "view", "io" (what goes into the model and comes out of it).
        name: ATen's; "permute" for what moves elements, "shuffle" where that mixes channels, "rank6" for a view of more than five
            dimensions.
        macs: multiply-adds.
        weights, reads, writes: elements of constants, of activations that go in and that come out.
        rows, inner, outer: of the matrix product that it is: output positions, summed and output channels (of one group or
            head); 0 for others.
        groups: groups of a convolution, batch of a "bmm".
        fused: for "act", "bn" and sums: it follows directly on a product, and runtimes do it there.
    """

    kind: str
    name: str
    macs: int = 0
    weights: int = 0
    reads: int = 0
    writes: int = 0
    rows: int = 0
    inner: int = 0
    outer: int = 0
    groups: int = 1
    fused: bool = False


def trace(model: nn.Module, *inputs: Tensor) -> list[Op]:
    """The operations of one forward pass, in order.

    Args:
        model: in eval mode, on the device of `inputs`; the meta device costs nothing.
        inputs: as the model takes them, at batch 1.

    Raises:
        RuntimeError, ValueError, ...: whatever the model raises on such inputs.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation otherwise
    try:
        with torch.no_grad(), _Recorder(model) as recorder:
            answer = model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    given, answered = (sum(t.numel() for t in tensors) for tensors in (inputs, _tensors(answer)))
    return [*recorder.ops, Op("io", "io", reads=given, writes=answered)]


def compact(ops: Sequence[Op]) -> dict[Op, int]:
    """Each distinct operation -> how often it occurs; views are counted whatever their sizes."""
    return dict(
        Counter(Op("view", op.name if op.name == "rank6" else "view") if op.kind == "view" else op for op in ops)
    )


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor in what a model returns: a tensor, a sequence, or a mapping."""
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in inner for tensor in _tensors(item)]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records calls. What depends on weights alone is a constant, which exporters fold, and costs nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self._constant = WeakIdKeyDictionary()
        self._pixels = WeakIdKeyDictionary()  # [H W, C] views of [b, H, W, C]
        self._product = WeakIdKeyDictionary()  # outputs that a BatchNorm or activation folds into
        for tensor in (*model.parameters(), *model.buffers()):
            self._constant[tensor] = True

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, Tensor)]
        given: list[Tensor] = []
        for arg in (*args, *(kwargs or {}).values()):
            given += [item for item in (arg if isinstance(arg, (list, tuple)) else [arg]) if isinstance(item, Tensor)]
        moving = [tensor for tensor in given if tensor not in self._constant]
        if not moving:
            for tensor in outputs:
                self._constant[tensor] = True
            return result
        name = func.overloadpacket.__name__
        if outputs and name not in FREE:
            self._record(name, args, given, moving, outputs)
        elif name in FREE and outputs and moving[0] in self._product:
            self._product[outputs[0]] = True
        return result

    def _record(self, name: str, args: Any, given: list[Tensor], moving: list[Tensor], outputs: list[Tensor]) -> None:
        weights = sum(tensor.numel() for tensor in given if tensor in self._constant)
        reads, writes = sum(tensor.numel() for tensor in moving), outputs[0].numel()
        base = name.rstrip("_")
        op = Op("elt", base, 0, weights, reads, writes)
        if "scaled_dot_product" in name:
            self.ops += _attention(*args[:3])
            return
        if name in CONVOLUTIONS:
            op = _convolution(op, args, outputs[0])
            self._product[outputs[0]] = True
        elif name in PRODUCTS:
            op = self._matrix(op, name, args)
            self._product[outputs[0]] = True
        elif "softmax" in name:
            op = op._replace(kind="softmax")
        elif name in NORMS:
            op = op._replace(kind="norm")
        elif name in BATCH_NORMS:
            op = op._replace(kind="bn", fused=moving[0] in self._product)
            self._product[outputs[0]] = True
        elif base in ACTIVATIONS:
            op = op._replace(kind="act", fused=moving[0] in self._product)
        elif name in REDUCTIONS:
            op = op._replace(kind="pool")
        elif base in MOVES:
            lookup = base in ("embedding", "gather", "index_select", "index")
            op = op._replace(kind="move", weights=0, reads=writes if lookup else reads)
        elif name in PERMUTATIONS:
            free = _only_names(name, args, moving[0])
            shuffles = name == "transpose" and moving[0].dim() == 5 and sorted(axis % 5 for axis in args[1:3]) == [1, 2]
            moved = op._replace(kind="move", name="shuffle" if shuffles else "permute", weights=0)
            op = Op("view", base) if free else moved
            if free and moving[0] in self._product:
                self._product[outputs[0]] = True
        elif base in VIEWS or base in COPIES:
            name_of = "rank6" if outputs[0].dim() > 5 else base
            op = op._replace(kind="view", name=name_of, weights=0, reads=0, writes=0)
            if moving[0] in self._product:
                self._product[outputs[0]] = True
            if moving[0].dim() == 4 and outputs[0].dim() == 2 and min(moving[0].shape[1:3]) > 1:
                self._pixels[outputs[0]] = True
        elif name in SUMS and any(tensor in self._product for tensor in moving):
            op = op._replace(fused=True)
            self._product[outputs[0]] = True
        self.ops.append(op)

    def _matrix(self, op: Op, name: str, args: Any) -> Op:
        left, right = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
        inner = left.shape[-1]
        outer = right.shape[0] if name == "linear" else right.shape[-1]
        with_weights = left in self._constant or right in self._constant
        groups = left.shape[0] if left.dim() == 3 and not with_weights else 1
        kind = "bmm" if not with_weights else "conv1" if left in self._pixels else "lin"
        return op._replace(
            kind=kind,
            macs=left.numel() * outer,
            rows=left.numel() // inner // groups,
            inner=inner,
            outer=outer,
            groups=groups,
        )


def _only_names(name: str, args: Any, tensor: Tensor) -> bool:
    """Whether a permutation moves nothing on a phone: a product takes its operand transposed, and between [b, C, H, W] and
    [b, H, W, C] a runtime has one layout of its own."""
    size, order = tensor.dim(), list(range(tensor.dim()))
    if name == "permute":
        order = [axis % size for axis in args[1]]
    elif name == "transpose":
        a, b = args[1] % size, args[2] % size
        order[a], order[b] = order[b], order[a]
    else:
        return False
    moved = [axis for axis in order if tensor.shape[axis] != 1]
    last_two = order[:-2] == list(range(size - 2))
    return moved == sorted(moved) or last_two or (size == 4 and order in ([0, 2, 3, 1], [0, 3, 1, 2]))


def _convolution(op: Op, args: Any, output: Tensor) -> Op:
    inputs, kernel = args[0], args[1]
    groups = args[8] if len(args) > 8 else 1
    transposed = bool(args[6]) if len(args) > 6 else False
    area = math.prod(kernel.shape[2:])
    positions = (inputs if transposed else output)[0, 0].numel()
    several = "dw" if groups == inputs.shape[1] else "grp"
    kind = several if groups > 1 else "conv1" if area == 1 else "conv"
    return op._replace(
        kind=kind,
        macs=(inputs if transposed else output).numel() * kernel.shape[1] * area,
        rows=positions,
        inner=kernel.shape[1] * area,
        outer=output.shape[1] // groups,
        groups=groups,
    )


def _attention(query: Tensor, key: Tensor, value: Tensor) -> list[Op]:
    """The two products and the softmax that runtimes without an attention kernel run, and so the phone's."""
    heads = math.prod(query.shape[:-2])
    rows, width = query.shape[-2:]
    keys = key.shape[-2]
    scores = heads * rows * keys
    product = Op("bmm", "bmm", scores * width, 0, groups=heads, rows=rows)
    return [
        product._replace(reads=query.numel() + key.numel(), writes=scores, inner=width, outer=keys),
        Op("softmax", "softmax", reads=scores, writes=scores),
        product._replace(reads=scores + value.numel(), writes=query.numel(), inner=keys, outer=width),
    ]

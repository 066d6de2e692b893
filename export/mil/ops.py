"""The operations of Apple's MIL that our towers convert to, each as a few lines of torch in float32.

Meanings and defaults: coremltools' operation documentation (coremltools.converters.mil.mil.ops.defs). Left out:
compressed weights (`export.mil.compressed`), what only other models need (`export.mil.further_ops`), control flow, state;
a program that holds an operation of no list is "not checked".
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from export.mil.sums import Rounding, conv, linear, matmul

Result = Tensor | tuple[Tensor, ...]
OPS: dict[str, Callable[["Arguments"], Result]] = {}


class Arguments:
    """The arguments of one operation: as tensors, or as Python values for those that must be constants.

    Attributes:
        sums: how sums of products are added up, the last arguments of the functions in `export.mil.sums`.
    """

    def __init__(self, op: Any, value_of: Callable[[Any], Any], sums: tuple[int, Rounding] = (1, torch.clone)) -> None:
        self._op = op
        self._value_of = value_of
        self.sums = sums

    def tensor(self, name: str) -> Tensor:
        """A given argument."""
        value: Tensor = self._value_of(self._op.inputs[name])
        return value

    def optional(self, name: str) -> Tensor | None:
        """An argument that may be left out."""
        return None if self._op.inputs.get(name) is None else self.tensor(name)

    def tensors(self, name: str) -> list[Tensor]:
        """An argument that is a list of tensors."""
        return [self._value_of(item) for item in self._op.inputs[name]]

    def constant(self, name: str, default: Any = None) -> Any:
        """A number, string, list or `default`."""
        variable = self._op.inputs.get(name)
        if variable is None:
            return default
        value = self._value_of(variable)
        return value.tolist() if isinstance(value, Tensor) else value


def _op(*names: str) -> Callable[[Callable[[Arguments], Result]], Callable[[Arguments], Result]]:
    def add(function: Callable[[Arguments], Result]) -> Callable[[Arguments], Result]:
        for name in names:
            OPS[name] = function
        return function

    return add


def _elementwise(functions: dict[str, Callable[..., Tensor]], *names: str) -> None:
    for op_name, function in functions.items():
        OPS[op_name] = lambda a, function=function: function(*(a.tensor(name) for name in names))  # type: ignore[misc]


_elementwise(
    {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "real_div": torch.div,
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "pow": torch.pow,
        "equal": torch.eq,
        "not_equal": torch.ne,
        "greater": torch.gt,
        "greater_equal": torch.ge,
        "less": torch.lt,
        "less_equal": torch.le,
        "logical_and": torch.logical_and,
        "logical_or": torch.logical_or,
    },
    "x",
    "y",
)
_elementwise(
    {
        "abs": torch.abs,
        "erf": torch.erf,
        "exp": torch.exp,
        "identity": lambda x: x,
        "logical_not": torch.logical_not,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "silu": F.silu,
        "sqrt": torch.sqrt,
        "square": torch.square,
        "tanh": torch.tanh,
    },
    "x",
)


@_op("rsqrt")
def _rsqrt(a: Arguments) -> Tensor:
    return torch.rsqrt(a.tensor("x") + a.constant("epsilon", 1e-12))


@_op("inverse")
def _inverse(a: Arguments) -> Tensor:
    return torch.reciprocal(a.tensor("x") + a.constant("epsilon", 1e-4))


@_op("clip")
def _clip(a: Arguments) -> Tensor:
    return a.tensor("x").clamp(a.constant("alpha"), a.constant("beta"))


@_op("gelu")
def _gelu(a: Arguments) -> Tensor:
    x, mode = a.tensor("x"), a.constant("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@_op("softmax")
def _softmax(a: Arguments) -> Tensor:
    return a.tensor("x").softmax(a.constant("axis", -1))


@_op("linear")
def _linear(a: Arguments) -> Tensor:
    return linear(a.tensor("x"), a.tensor("weight"), a.optional("bias"), *a.sums)


@_op("matmul")
def _matmul(a: Arguments) -> Tensor:
    x, y = a.tensor("x"), a.tensor("y")
    x = x.transpose(-1, -2) if a.constant("transpose_x", False) else x
    y = y.transpose(-1, -2) if a.constant("transpose_y", False) else y
    return matmul(x, y, *a.sums)


@_op("conv")
def _conv(a: Arguments) -> Tensor:
    x, weight = a.tensor("x"), a.tensor("weight")
    axes = weight.dim() - 2
    strides, dilations = a.constant("strides", [1] * axes), a.constant("dilations", [1] * axes)
    padding = a.constant("pad_type", "valid")
    if padding == "custom":
        pairs = a.constant("pad")  # begin and end, first axis first; torch wants the last axis first
        x = F.pad(x, [pairs[2 * axis + end] for axis in reversed(range(axes)) for end in (0, 1)])
    elif padding != "valid":
        x = pad_same(x, list(weight.shape[2:]), strides, dilations, lower=padding == "same_lower")
    geometry = {"stride": strides, "dilation": dilations, "groups": a.constant("groups", 1)}
    return conv(x, weight, a.optional("bias"), geometry, *a.sums)


def pad_same(
    x: Tensor, kernel: list[int], strides: list[int], dilations: list[int], lower: bool, filler: float = 0.0
) -> Tensor:
    """`x` padded with `filler`, so that a window on every stride fits; an odd place goes behind, or with `lower` before."""
    pads = []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        pads.append((large, small) if lower else (small, large))
    return F.pad(x, [side for pair in reversed(pads) for side in pair], value=filler)


@_op("batch_norm")
def _batch_norm(a: Arguments) -> Tensor:
    return F.batch_norm(
        a.tensor("x"),
        a.tensor("mean"),
        a.tensor("variance"),
        a.optional("gamma"),
        a.optional("beta"),
        training=False,
        eps=a.constant("epsilon", 1e-5),
    )


@_op("layer_norm")
def _layer_norm(a: Arguments) -> Tensor:
    x = a.tensor("x")
    axes = sorted(axis % x.dim() for axis in a.constant("axes"))
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    x = (x - mean) * torch.rsqrt(variance + a.constant("epsilon", 1e-5))
    gamma, beta = a.optional("gamma"), a.optional("beta")
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Arguments], Result]:
    def reduce(a: Arguments) -> Result:
        x = a.tensor("x")
        return function(x, a.constant("axes", list(range(x.dim()))), a.constant("keep_dims", False))

    return reduce


OPS["reduce_mean"] = _reduction(lambda x, axes, keep: x.mean(axes, keep))
OPS["reduce_sum"] = _reduction(lambda x, axes, keep: x.sum(axes, keep))
OPS["reduce_max"] = _reduction(lambda x, axes, keep: x.amax(axes, keep))
OPS["reduce_min"] = _reduction(lambda x, axes, keep: x.amin(axes, keep))
OPS["reduce_l2_norm"] = _reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep))
OPS["reduce_sum_square"] = _reduction(lambda x, axes, keep: x.square().sum(axes, keep))


@_op("cast")
def _cast(a: Arguments) -> Tensor:
    x, dtype = a.tensor("x"), a.constant("dtype")
    # Rounding to fp16 happens where every result is rounded; here only the kind of number changes.
    return x.float() if dtype.startswith("fp") else x.bool() if dtype == "bool" else x.to(torch.int32)


@_op("reshape")
def _reshape(a: Arguments) -> Tensor:
    x = a.tensor("x")
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(a.constant("shape"))])


@_op("transpose")
def _transpose(a: Arguments) -> Tensor:
    return a.tensor("x").permute(a.constant("perm"))


@_op("squeeze")
def _squeeze(a: Arguments) -> Tensor:
    axes = a.constant("axes")
    return a.tensor("x").squeeze() if axes is None else a.tensor("x").squeeze(tuple(axes))


@_op("expand_dims")
def _expand_dims(a: Arguments) -> Tensor:
    x, axes = a.tensor("x"), a.constant("axes")
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@_op("split")
def _split(a: Arguments) -> Result:
    x, axis, sizes = a.tensor("x"), a.constant("axis"), a.constant("split_sizes")
    return torch.split(x, x.shape[axis] // a.constant("num_splits") if sizes is None else sizes, axis)


@_op("concat")
def _concat(a: Arguments) -> Tensor:
    # Sizes that are put together to a shape are scalars.
    return torch.cat(
        [value.reshape(1) if value.dim() == 0 else value for value in a.tensors("values")], a.constant("axis")
    )


@_op("stack")
def _stack(a: Arguments) -> Tensor:
    return torch.stack(a.tensors("values"), a.constant("axis"))


@_op("tile")
def _tile(a: Arguments) -> Tensor:
    return a.tensor("x").repeat(a.constant("reps"))


@_op("select")
def _select(a: Arguments) -> Tensor:
    return torch.where(a.tensor("cond").bool(), a.tensor("a"), a.tensor("b"))


@_op("gather")
def _gather(a: Arguments) -> Tensor:
    if a.constant("batch_dims", 0):
        raise NotImplementedError("gather with batch_dims")
    x, indices, axis = a.tensor("x"), a.tensor("indices").long(), a.constant("axis", 0)
    axis %= x.dim()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@_op("slice_by_index")
def _slice_by_index(a: Arguments) -> Tensor:
    x = a.tensor("x")
    none = [False] * x.dim()
    begin, end, stride = a.constant("begin"), a.constant("end"), a.constant("stride", [1] * x.dim())
    whole_begin, whole_end = a.constant("begin_mask", none), a.constant("end_mask", none)
    squeezed = a.constant("squeeze_mask", none)
    for axis in reversed(range(x.dim())):
        if squeezed[axis]:
            x = x.select(axis, begin[axis])
        else:
            place = slice(None if whole_begin[axis] else begin[axis], None if whole_end[axis] else end[axis])
            steps = torch.arange(x.shape[axis])[place][:: stride[axis]]  # strides in our programs are positive
            x = x.index_select(axis, steps)
    return x

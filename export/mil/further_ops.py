"""MIL operations that models other than our students convert to: pooling, upsampling, padding, activations, look-ups.

As in `export.mil.ops`: a few lines of torch in float32 each, meanings and defaults from coremltools' documentation.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from export.mil.ops import Arguments, pad_same

FURTHER_OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "ceil": lambda a: a.tensor("x").ceil(),
    "cos": lambda a: a.tensor("x").cos(),
    "elu": lambda a: F.elu(a.tensor("x"), a.constant("alpha", 1.0)),
    "floor": lambda a: a.tensor("x").floor(),
    "floor_div": lambda a: torch.div(a.tensor("x"), a.tensor("y"), rounding_mode="floor"),
    "leaky_relu": lambda a: F.leaky_relu(a.tensor("x"), a.constant("alpha", 0.01)),
    "log": lambda a: torch.log(a.tensor("x") + a.constant("epsilon", 1e-45)),
    "mod": lambda a: torch.remainder(a.tensor("x"), a.tensor("y")),
    "prelu": lambda a: F.prelu(a.tensor("x"), a.tensor("alpha")),
    "shape": lambda a: torch.tensor(a.tensor("x").shape, dtype=torch.int32),
    "relu6": lambda a: F.relu6(a.tensor("x")),
    "reverse": lambda a: a.tensor("x").flip(a.constant("axes", list(range(a.tensor("x").dim())))),
    "sigmoid_hard": lambda a: (a.constant("alpha", 0.2) * a.tensor("x") + a.constant("beta", 0.5)).clamp(0, 1),
    "sign": lambda a: a.tensor("x").sign(),
    "sin": lambda a: a.tensor("x").sin(),
    "softplus": lambda a: F.softplus(a.tensor("x")),
    "threshold": lambda a: a.tensor("x").clamp(min=a.constant("alpha", 1.0)),
}


def _op(name: str) -> Callable[[Callable[[Arguments], Tensor]], Callable[[Arguments], Tensor]]:
    def add(function: Callable[[Arguments], Tensor]) -> Callable[[Arguments], Tensor]:
        FURTHER_OPS[name] = function
        return function

    return add


@_op("gather_along_axis")
def _gather_along_axis(a: Arguments) -> Tensor:
    x, indices, axis = a.tensor("x"), a.tensor("indices").long(), a.constant("axis", 0)
    return torch.take_along_dim(x, torch.where(indices < 0, indices + x.shape[axis], indices), axis)


@_op("gather_nd")
def _gather_nd(a: Arguments) -> Tensor:
    if a.constant("batch_dims", 0):
        raise NotImplementedError("gather_nd with batch_dims")
    return a.tensor("x")[tuple(a.tensor("indices").long().unbind(-1))]


@_op("cumsum")
def _cumsum(a: Arguments) -> Tensor:
    x, axis = a.tensor("x"), a.constant("axis", 0)
    x = x.flip(axis) if a.constant("reverse", False) else x
    total = x.cumsum(axis).to(x.dtype)
    total = total - x if a.constant("exclusive", False) else total
    return total.flip(axis) if a.constant("reverse", False) else total


@_op("max_pool")
def _max_pool(a: Arguments) -> Tensor:
    return _pooled(a, (F.max_pool1d, F.max_pool2d, F.max_pool3d), -math.inf)


@_op("avg_pool")
def _avg_pool(a: Arguments) -> Tensor:
    functions = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    if not a.constant("exclude_padding_from_average", False):
        return _pooled(a, functions, 0.0, count_include_pad=True)
    inside = torch.ones_like(a.tensor("x"))
    return _pooled(a, functions, 0.0, count_include_pad=True) / _pooled(
        a, functions, 0.0, inside, count_include_pad=True
    )


def _pooled(a: Arguments, functions: tuple[Any, ...], filler: float, x: Tensor | None = None, **options: Any) -> Tensor:
    """Pool a tensor (the argument x where none is given) that is padded with `filler`."""
    x = a.tensor("x") if x is None else x
    kernel = a.constant("kernel_sizes")
    axes = len(kernel)
    strides, kind = a.constant("strides", [1] * axes), a.constant("pad_type")
    pads = a.constant("pad", [0] * 2 * axes) if kind == "custom" else [0] * 2 * axes
    function: Callable[..., Tensor] = functions[axes - 1]
    if a.constant("ceil_mode", False):  # padding is symmetric then, and torch leaves out windows that begin behind it
        return function(x, kernel, strides, pads[::2], ceil_mode=True, **options)
    if kind in ("same", "same_lower"):
        x = pad_same(x, kernel, strides, [1] * axes, lower=kind == "same_lower", filler=filler)
    else:
        x = F.pad(x, [pads[2 * axis + end] for axis in reversed(range(axes)) for end in (0, 1)], value=filler)
    return function(x, kernel, strides, **options)


@_op("pad")
def _pad(a: Arguments) -> Tensor:
    x, pads, mode = a.tensor("x"), a.constant("pad"), a.constant("mode", "constant")
    pairs = [pads[2 * axis + end] for axis in reversed(range(len(pads) // 2)) for end in (0, 1)]  # of the last axes
    if mode == "constant":
        return F.pad(x, pairs, value=float(a.constant("constant_val", 0.0)))
    for axis in range(len(pads) // 2):  # torch reflects only some ranks
        x = _mirrored(x, x.dim() - len(pads) // 2 + axis, pads[2 * axis], pads[2 * axis + 1], mode == "reflect")
    return x


def _mirrored(x: Tensor, axis: int, before: int, behind: int, reflect: bool) -> Tensor:
    size = x.shape[axis]
    place = torch.arange(-before, size + behind)
    place = (size - 1 - (size - 1 - place.abs()).abs()) if reflect else place.clamp(0, size - 1)
    return x.index_select(axis, place)


@_op("upsample_nearest_neighbor")
def _upsample_nearest(a: Arguments) -> Tensor:
    x = a.tensor("x")
    for axis, name in ((-2, "height"), (-1, "width")):
        size = x.shape[axis]
        made = math.floor(size * a.constant(f"scale_factor_{name}", 1))
        x = x.index_select(axis, (torch.arange(made) * size).div(made, rounding_mode="floor"))
    return x


@_op("upsample_bilinear")
def _upsample_bilinear(a: Arguments) -> Tensor:
    x, corners = a.tensor("x"), a.constant("align_corners", True)
    half = a.constant("half_pixel_centers", not corners)
    for axis, name in ((-2, "height"), (-1, "width")):
        weights = _interpolation(x.shape[axis], a.constant(f"scale_factor_{name}", 1), corners, half)
        x = (weights @ x) if axis == -2 else x @ weights.T
    return x


def _interpolation(size: int, factor: float, corners: bool, half: bool) -> Tensor:
    """[made, size]: what each place of the result takes from the places of one axis."""
    made = math.floor(size * factor)
    step = (size - 1) / max(made - 1, 1) if corners else size / made
    places = (torch.arange(made, dtype=torch.float64) * step + (0.5 * step - 0.5 if half else 0)).clamp(0, size - 1)
    low = places.floor().long()
    share = (places - low).float()
    weights = torch.zeros(made, size)
    rows = torch.arange(made)
    weights[rows, low] = 1 - share
    weights[rows, (low + 1).clamp(max=size - 1)] += share
    return weights


@_op("quantize")
def _quantize(a: Arguments) -> Tensor:
    x = a.tensor("input")
    low, high = {"int8": (-128, 127), "uint8": (0, 255)}[a.constant("output_dtype")]
    scaled = (x / _along(a, "scale", x)).round()
    if a.optional("zero_point") is not None:
        scaled = scaled + _along(a, "zero_point", x)
    return scaled.clamp(low, high)


@_op("dequantize")
def _dequantize(a: Arguments) -> Tensor:
    x = a.tensor("input").float()
    if a.optional("zero_point") is not None:
        x = x - _along(a, "zero_point", x)
    return x * _along(a, "scale", x)


def _along(a: Arguments, name: str, x: Tensor) -> Tensor:
    """A scale or zero point: one for all of `x`, or one per index along the operation's axis."""
    value = a.tensor(name).float()
    if not value.dim():
        return value
    shape = [1] * x.dim()
    shape[a.constant("axis")] = -1
    return value.reshape(shape)

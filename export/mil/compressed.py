"""Compressed weights of a program, expanded as a runtime expands them when it loads the model.

Meanings: coremltools' documentation of the constexpr operations of iOS 16 and iOS 18, whose names are the same and whose
arguments are not. Each is computed in float32; the caller rounds to the declared type. Left out: sparse weights that are
palettized or quantized as well.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from export.mil.ops import Arguments

EXPANSIONS: dict[str, Callable[[Arguments], Tensor]] = {}


def _expansion(name: str) -> Callable[[Callable[[Arguments], Tensor]], Callable[[Arguments], Tensor]]:
    def add(function: Callable[[Arguments], Tensor]) -> Callable[[Arguments], Tensor]:
        EXPANSIONS[name] = function
        return function

    return add


@_expansion("constexpr_affine_dequantize")
def _affine_dequantize(a: Arguments) -> Tensor:
    data, axis = a.tensor("quantized_data"), a.constant("axis")
    shape = [1] * data.dim()
    shape[axis % data.dim()] = -1
    scale, zero = (x.reshape(shape) if x.dim() else x for x in (a.tensor("scale"), a.tensor("zero_point")))
    return (data.float() - zero) * scale


@_expansion("constexpr_blockwise_shift_scale")
def _blockwise_shift_scale(a: Arguments) -> Tensor:
    data, scale, offset = a.tensor("data").float(), a.tensor("scale"), a.optional("offset")
    data = data if offset is None else data - _spread(offset.float(), data.shape)
    return data * _spread(scale, data.shape)


@_expansion("constexpr_lut_to_dense")
def _lut_to_dense(a: Arguments) -> Tensor:
    table = a.tensor("lut").float()
    if a.optional("shape") is not None:  # iOS 16: one palette, packed indices
        shape = a.constant("shape")
        bits = (table.numel() - 1).bit_length()
        return table[_unpacked(a.tensor("indices"), bits, torch.Size(shape).numel())].reshape(shape)
    indices = a.tensor("indices").long()
    groups, size = list(table.shape[:-2]), table.shape[-1]
    number = torch.arange(torch.Size(groups).numel()).reshape(groups)
    picked = table.reshape(-1, *table.shape[-2:])[_spread(number, indices.shape), indices]
    if size == 1:
        return picked.squeeze(-1)
    axis = a.constant("vector_axis") % indices.dim()
    return picked.movedim(-1, axis + 1).flatten(axis, axis + 1)


@_expansion("constexpr_sparse_to_dense")
def _sparse_to_dense(a: Arguments) -> Tensor:
    kept, mask = a.tensor("nonzero_data").float(), a.tensor("mask")
    if a.optional("shape") is not None:  # iOS 16: one bit an element
        shape = a.constant("shape")
        mask = _unpacked(mask, 1, torch.Size(shape).numel()).reshape(shape)
    dense = torch.zeros(mask.shape)
    dense[mask.bool()] = kept
    return dense


@_expansion("constexpr_cast")
def _constexpr_cast(a: Arguments) -> Tensor:
    return a.tensor("source_val").float()


def _spread(x: Tensor, shape: torch.Size) -> Tensor:
    """Each entry of `x` over its block of `shape`."""
    for axis, (size, count) in enumerate(zip(shape, x.shape, strict=True)):
        x = x.repeat_interleave(size // count, axis) if size != count else x
    return x


def _unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """`count` numbers of `bits` bits each, packed into bytes from the least significant bit on."""
    single = (packed.reshape(-1, 1).to(torch.int32) >> torch.arange(8)) & 1
    return (single.reshape(-1)[: bits * count].reshape(count, bits) << torch.arange(bits)).sum(1)

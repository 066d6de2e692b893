"""Compressed weights against coremltools' own expansion of them, for every form that the interpreter takes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.mil.compressed import EXPANSIONS
from export.mil.coremltools import import_coremltools
from export.mil.ops import Arguments
from export.mil.program import constant

import_coremltools()
from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops as ios16  # noqa: E402
from coremltools.converters.mil.mil.ops.defs.iOS18 import compression as ios18  # noqa: E402
from coremltools.optimize import _utils as theirs  # noqa: E402

RANDOM = np.random.default_rng(0)


def expand(name: str, **given: Any) -> np.ndarray:
    """By the interpreter."""
    arguments = Arguments(SimpleNamespace(inputs=given), constant)
    return EXPANSIONS[name](arguments).numpy()


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_affine(axis: int, kind: type) -> None:
    data = RANDOM.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, (4, 6, 3)).astype(kind)
    scale = RANDOM.random(data.shape[axis]).astype(np.float32)
    zero = RANDOM.integers(0, 100, data.shape[axis]).astype(kind)
    for s, z in ((scale, zero), (scale[0], zero[0])):
        wanted = ios16.constexpr_affine_dequantize.decompress(data, z, s, axis)
        got = expand("constexpr_affine_dequantize", quantized_data=data, scale=s, zero_point=z, axis=np.int32(axis))
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_one_palette_with_packed_indices(bits: int) -> None:
    shape = np.array([5, 3, 7], np.uint32)  # 105 indices: no whole number of bytes
    indices = RANDOM.integers(0, 1 << bits, int(shape.prod())).astype(np.uint8)
    table = RANDOM.normal(size=1 << bits).astype(np.float16)
    packed = theirs.pack_elements_into_bits(indices, bits)
    got = expand("constexpr_lut_to_dense", indices=packed, lut=table, shape=shape)
    assert np.array_equal(got, table[indices].reshape(shape))
    assert np.array_equal(got, ios16.constexpr_lut_to_dense.decompress(table, packed, shape))


@pytest.mark.parametrize("groups", [(1, 1, 1), (2, 1, 1), (1, 3, 1), (2, 3, 4)])
def test_a_palette_for_each_group(groups: tuple[int, ...]) -> None:
    indices = RANDOM.integers(0, 16, (6, 9, 4)).astype(np.uint8)
    table = RANDOM.normal(size=(*groups, 16, 1)).astype(np.float16)
    wanted = ios18.constexpr_lut_to_dense.decompress(indices, table, None)
    assert np.array_equal(expand("constexpr_lut_to_dense", indices=indices, lut=table), wanted)
    assert wanted[5, 0, 0] == table[groups[0] - 1, 0, 0, indices[5, 0, 0], 0]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_palette_of_vectors(axis: int) -> None:
    indices = RANDOM.integers(0, 4, (4, 6)).astype(np.uint8)
    table = RANDOM.normal(size=(2, 1, 4, 3)).astype(np.float16)
    wanted = ios18.constexpr_lut_to_dense.decompress(indices, table, np.int32(axis))
    got = expand("constexpr_lut_to_dense", indices=indices, lut=table, vector_axis=np.int32(axis))
    assert got.shape == wanted.shape
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("offset", [True, False])
def test_blocks(offset: bool) -> None:
    data = RANDOM.integers(-8, 8, (4, 64)).astype(np.int8)
    scale = RANDOM.random((4, 2)).astype(np.float32)
    shift = RANDOM.integers(-4, 4, (4, 2)).astype(np.int8) if offset else None
    given = {"data": data, "scale": scale} | ({"offset": shift} if offset else {})
    wanted = ios18.constexpr_blockwise_shift_scale.decompress(data, scale, shift)
    np.testing.assert_allclose(expand("constexpr_blockwise_shift_scale", **given), wanted, rtol=1e-6)


def test_sparse() -> None:
    mask = RANDOM.random((5, 7)) < 0.3
    kept = RANDOM.normal(size=int(mask.sum())).astype(np.float16)
    wanted = np.zeros(mask.shape, np.float32)
    wanted[mask] = kept
    packed = np.packbits(mask.reshape(-1), bitorder="little")
    shape = np.array(mask.shape, np.uint32)
    assert np.array_equal(expand("constexpr_sparse_to_dense", nonzero_data=kept, mask=packed, shape=shape), wanted)
    assert np.array_equal(expand("constexpr_sparse_to_dense", nonzero_data=kept, mask=mask.astype(np.uint8)), wanted)


def test_cast() -> None:
    value = np.array([1.5, -2], np.float16)
    got = expand("constexpr_cast", source_val=value, output_dtype="fp32")
    assert torch.from_numpy(got).dtype == torch.float32
    assert np.array_equal(got, value.astype(np.float32))

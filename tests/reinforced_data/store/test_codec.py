import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforced_data.store.codec import decode, encode, join
from reinforced_data.store.dtypes import EMBED_DTYPES, MIN_COSINE


def unit_rows(seed, rows, width, spikes=0.0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, width))
    values[:, 0] += spikes * np.sqrt(width)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("dtype", EMBED_DTYPES)
@pytest.mark.parametrize("width", [64, 512, 1152])
def test_stored_rows_point_where_they_did(dtype, width):
    rows = unit_rows(0, 500, width)
    stored = encode(rows, dtype)
    back = decode(stored.values, stored.scales, dtype)
    assert back.dtype == np.float32
    assert cosines(rows, back).min() >= MIN_COSINE[dtype]
    bits = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8}[dtype]
    assert stored.values.nbytes * 8 == bits * rows.size
    assert (decode(stored.values[7], None if stored.scales is None else stored.scales[7], dtype) == back[7]).all()


def test_int8_error_is_half_a_step_and_the_largest_number_is_kept():
    """Against the definition in float64: |x - q s| <= s / 2, s = max |x| / 127."""
    rows = unit_rows(1, 200, 96, spikes=0.7)
    stored = encode(rows, "int8")
    steps = np.abs(rows.astype(np.float64)).max(axis=1) / 127
    assert np.allclose(stored.scales, steps, rtol=1e-6)
    error = np.abs(rows.astype(np.float64) - stored.values.astype(np.float64) * stored.scales[:, None])
    assert (error <= steps[:, None] * (0.5 + 1e-4)).all()
    assert (np.abs(stored.values).max(axis=1) == 127).all()


def test_int8_loses_more_where_one_component_rules():
    """Why a set is verified after it was made: the bound on the cosine is no law."""
    plain, ruled = unit_rows(2, 200, 512), unit_rows(2, 200, 512, spikes=3.0)
    worst = [cosines(rows, decode(*_int8(rows), "int8")).min() for rows in (plain, ruled)]
    assert worst[1] < worst[0]


def _int8(rows):
    stored = encode(rows, "int8")
    return stored.values, stored.scales


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
@settings(max_examples=300)
def test_bf16_rounds_as_torch_does(values):
    rows = np.array([values], np.float32)
    rows = np.clip(rows, -3e38, 3e38)
    expected = torch.from_numpy(rows).bfloat16().float().numpy()
    assert (decode(encode(rows, "bf16").values, None, "bf16") == expected).all()


@pytest.mark.parametrize("dtype", EMBED_DTYPES)
def test_rows_do_not_depend_on_their_neighbours(dtype):
    rows = unit_rows(3, 9, 24)
    whole, parts = encode(rows, dtype), join([encode(rows[:4], dtype), encode(rows[4:], dtype)])
    assert (whole.values == parts.values).all()
    assert whole.scales is None or (whole.scales == parts.scales).all()


def test_a_zero_row_stays_zero():
    stored = encode(np.zeros((2, 5), np.float32), "int8")
    assert (decode(stored.values, stored.scales, "int8") == 0).all()

"""Operations of other models: against coremltools' own evaluation where it has one, else torch's modules or loops."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from export.mil.coremltools import import_coremltools
from export.mil.further_ops import FURTHER_OPS
from export.mil.ops import Arguments
from export.mil.program import constant

ct = import_coremltools()
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function  # noqa: E402

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def ours(name: str, **given: Any) -> np.ndarray:
    arguments = {key: value if isinstance(value, str) else np.asarray(value) for key, value in given.items()}
    return FURTHER_OPS[name](Arguments(SimpleNamespace(inputs=arguments), constant)).numpy()


BY_COREMLTOOLS: dict[str, dict[str, Any]] = {
    "ceil": {"x": X},
    "cos": {"x": X},
    "quantize": {"input": X, "scale": np.float32(0.01), "output_dtype": "int8"},
    "elu": {"x": X, "alpha": np.float32(0.5)},
    "floor": {"x": X},
    "floor_div": {"x": X * 7, "y": np.float32(2)},
    "gather_along_axis": {"x": X, "indices": np.array([[[2, 0, 1, -1]], [[0, 0, 1, 2]]], np.int32), "axis": 1},
    "leaky_relu": {"x": X, "alpha": np.float32(0.3)},
    "log": {"x": np.abs(X) + 0.1, "epsilon": np.float32(0.01)},
    "pad": {"x": X, "pad": [1, 0, 2, 3], "mode": "constant", "constant_val": np.float32(5)},
    "mod": {"x": X * 7, "y": np.float32(2)},
    "prelu": {"x": X[None].transpose(0, 2, 1, 3), "alpha": np.array([0.1, 0.2, 0.3], np.float32)},
    "relu6": {"x": X * 5},
    "reverse": {"x": X, "axes": [0, 2]},
    "shape": {"x": X},
    "sigmoid_hard": {"x": X * 4, "alpha": np.float32(0.3), "beta": np.float32(0.4)},
    "sign": {"x": X},
    "sin": {"x": X},
    "softplus": {"x": X},
    "threshold": {"x": X, "alpha": np.float32(0.2)},
}


@pytest.mark.parametrize("name", BY_COREMLTOOLS)
def test_against_coremltools(name: str) -> None:
    given = BY_COREMLTOOLS[name]
    with Function({}, opset_version=ct.target.iOS17):
        expected = getattr(mb, name)(**given).val
    assert expected is not None, "coremltools did not evaluate it"
    np.testing.assert_allclose(ours(name, **given), expected, atol=2e-6, rtol=2e-6)


def test_dequantize_by_hand() -> None:
    """coremltools evaluates no dequantize."""
    data = (X * 20).astype(np.int8)
    scale, zero = np.array([0.1, 0.2, 0.3], np.float32), np.array([1, -2, 3], np.int8)
    got = ours("dequantize", input=data, scale=scale, zero_point=zero, axis=1)
    for channel in range(3):
        wanted = (data[:, channel].astype(np.float32) - int(zero[channel])) * scale[channel]
        np.testing.assert_allclose(got[:, channel], wanted, rtol=1e-6)
    np.testing.assert_allclose(ours("dequantize", input=data, scale=np.float32(0.5)), data * 0.5)


def test_places_by_several_indices() -> None:
    found = ours("gather_nd", x=X, indices=np.array([[1, 2], [0, 0], [1, 0]], np.int32))
    assert np.array_equal(found, np.stack([X[1, 2], X[0, 0], X[1, 0]]))


def test_running_sums() -> None:
    x = np.arange(1, 5, dtype=np.int32)
    for exclusive, reverse, expected in (
        (False, False, [1, 3, 6, 10]), (True, False, [0, 1, 3, 6]), (False, True, [10, 9, 7, 4]), (True, True, [9, 7, 4, 0]),
    ):  # fmt: skip
        assert ours("cumsum", x=x, axis=0, exclusive=exclusive, reverse=reverse).tolist() == expected


def test_defaults_are_those_of_the_documentation() -> None:
    assert ours("sigmoid_hard", x=np.float32([1.0])) == pytest.approx(0.7)
    assert ours("elu", x=np.float32([-1.0])) == pytest.approx(np.exp(-1) - 1)
    assert ours("leaky_relu", x=np.float32([-1.0])) == pytest.approx(-0.01)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_mirrored_padding_is_numpys(mode: str) -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    kind = {"reflect": "reflect", "replicate": "edge"}[mode]
    expected = np.pad(x, ((0, 0), (1, 2), (3, 0)), mode=kind)  # type: ignore[call-overload]
    assert np.array_equal(ours("pad", x=x, pad=[1, 2, 3, 0], mode=mode), expected)


def _by_loops(x: np.ndarray, kernel: int, stride: int, sides: tuple[int, int], most: bool, exclude: bool) -> np.ndarray:
    """One channel, both axes alike."""
    filler = -np.inf if most else np.nan
    padded = np.pad(x.astype(np.float64), (sides, sides), constant_values=filler)
    count = (len(padded) - kernel) // stride + 1
    result = np.zeros((count, count))
    for r, c in itertools.product(range(count), range(count)):
        window = padded[r * stride : r * stride + kernel, c * stride : c * stride + kernel]
        result[r, c] = window.max() if most else np.nanmean(window) if exclude else np.nansum(window) / kernel**2
    return result


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "sides"),
    [("valid", 2, 2, (0, 0)), ("custom", 3, 2, (1, 0)), ("custom", 3, 1, (1, 1)), ("same", 3, 2, (0, 1)),
     ("same_lower", 3, 2, (1, 0))],
)  # fmt: skip
def test_pools(kind: str, kernel: int, stride: int, sides: tuple[int, int], exclude: bool) -> None:
    x = np.random.default_rng(1).normal(size=(1, 1, 6, 6)).astype(np.float32)
    given = {"x": x, "kernel_sizes": [kernel] * 2, "strides": [stride] * 2, "pad_type": kind}
    if kind == "custom":
        given["pad"] = [*sides, *sides]
    expected = _by_loops(x[0, 0], kernel, stride, sides, most=True, exclude=False)
    np.testing.assert_allclose(ours("max_pool", **given)[0, 0], expected, atol=1e-6)
    expected = _by_loops(x[0, 0], kernel, stride, sides, most=False, exclude=exclude)
    found = ours("avg_pool", **given, exclude_padding_from_average=exclude)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [5, 6, 7, 8])
def test_pools_with_a_last_window_that_is_cut(size: int) -> None:
    x = torch.randn(1, 2, size, size, generator=torch.Generator().manual_seed(size))
    for pad in (0, 1):
        given = {"x": x.numpy(), "kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [pad] * 4,
                 "ceil_mode": True}  # fmt: skip
        assert np.array_equal(ours("max_pool", **given), F.max_pool2d(x, 3, 2, pad, ceil_mode=True))
        found = ours("avg_pool", **given, exclude_padding_from_average=True)
        expected = F.avg_pool2d(x, 3, 2, pad, ceil_mode=True, count_include_pad=False)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("factors", [(2, 2), (3, 1), (2.5, 1.5)])
def test_upsampling_is_torchs(factors: tuple[float, float]) -> None:
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    size = [int(4 * factors[0]), int(6 * factors[1])]
    given = {"x": x.numpy(), "scale_factor_height": factors[0], "scale_factor_width": factors[1]}
    for corners in (True, False):
        found = ours("upsample_bilinear", **given, align_corners=corners)
        expected = F.interpolate(x, size, mode="bilinear", align_corners=corners)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(ours("upsample_nearest_neighbor", **given), F.interpolate(x, size, mode="nearest"))


def test_the_grid_without_half_pixels() -> None:
    """Xin = 2, Xout = 6 of the documentation: places 0, 1/3, 2/3, 1, 1, 1."""
    x = np.array([[[0.0, 1.0]]], np.float32)
    found = ours("upsample_bilinear", x=x, scale_factor_width=3, align_corners=False, half_pixel_centers=False)
    np.testing.assert_allclose(found[0, 0], [0, 1 / 3, 2 / 3, 1, 1, 1], atol=1e-6)


def test_every_operation_is_tested() -> None:
    elsewhere = {
        "cumsum",
        "dequantize",
        "gather_nd",
        "max_pool",
        "avg_pool",
        "upsample_bilinear",
        "upsample_nearest_neighbor",
    }
    assert set(FURTHER_OPS) == set(BY_COREMLTOOLS) | elsewhere

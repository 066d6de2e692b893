"""MIL operations against coremltools' own constant evaluation where it has one, else against loops in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from export.mil.coremltools import import_coremltools
from export.mil.ops import OPS, Arguments
from export.mil.program import constant

ct = import_coremltools()
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function  # noqa: E402

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + 0.1

# name -> arguments; coremltools evaluates these operations on constants with numpy.
BY_COREMLTOOLS: dict[str, list[dict[str, Any]]] = {
    "add": [{"x": X, "y": Y}, {"x": X, "y": np.float32(2)}],
    "sub": [{"x": X, "y": Y}],
    "mul": [{"x": X, "y": Y[:, :1]}],
    "real_div": [{"x": X, "y": POSITIVE}],
    "maximum": [{"x": X, "y": Y}],
    "minimum": [{"x": X, "y": Y}],
    "pow": [{"x": POSITIVE, "y": np.float32(3)}],
    "equal": [{"x": np.arange(4, dtype=np.int32), "y": np.int32(2)}],
    "greater": [{"x": X, "y": Y}],
    "less_equal": [{"x": X, "y": Y}],
    "abs": [{"x": X}],
    "erf": [{"x": X}],
    "exp": [{"x": X}],
    "relu": [{"x": X}],
    "sigmoid": [{"x": X}],
    "sqrt": [{"x": POSITIVE}],
    "square": [{"x": X}],
    "tanh": [{"x": X}],
    "rsqrt": [{"x": POSITIVE, "epsilon": np.float32(0.01)}, {"x": POSITIVE}],
    "inverse": [{"x": POSITIVE, "epsilon": np.float32(0.01)}],
    "clip": [{"x": X, "alpha": np.float32(-0.5), "beta": np.float32(0.25)}],
    "gelu": [{"x": X, "mode": mode} for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")],
    "softmax": [{"x": X, "axis": 1}, {"x": X}],
    "matmul": [{"x": X, "y": Y, "transpose_y": True}, {"x": X, "y": Y, "transpose_x": True}],
    "linear": [{"x": X[0], "weight": Y[0], "bias": Y[0, :, 0]}, {"x": X[0], "weight": Y[0]}],
    "reduce_mean": [{"x": X, "axes": [1], "keep_dims": True}, {"x": X, "axes": [-1], "keep_dims": False}],
    "reduce_sum": [{"x": X, "axes": [0, 2], "keep_dims": False}],
    "reduce_max": [{"x": X, "axes": [-1], "keep_dims": True}],
    "reduce_min": [{"x": X, "axes": [1], "keep_dims": True}],
    "reduce_l2_norm": [{"x": X, "axes": [-1], "keep_dims": True}],
    "reduce_sum_square": [{"x": X, "axes": [-1], "keep_dims": True}],
    "cast": [{"x": X * 3, "dtype": "int32"}, {"x": np.array([0, 1, 2], dtype=np.int32), "dtype": "fp32"}],
    "reshape": [{"x": X, "shape": [4, -1]}, {"x": X, "shape": [6, 4]}],
    "transpose": [{"x": X, "perm": [2, 0, 1]}],
    "squeeze": [{"x": X[:1, :, :1], "axes": [0, 2]}, {"x": X[:1], "axes": [0]}],
    "expand_dims": [{"x": X, "axes": [0, -1]}, {"x": X, "axes": [1]}],
    "split": [{"x": X, "axis": 2, "num_splits": 2}, {"x": X, "axis": 1, "split_sizes": [1, 2]}],
    "concat": [{"values": [X, Y], "axis": 1}, {"values": [X, Y], "axis": -1}],
    "stack": [{"values": [X, Y], "axis": 1}],
    "tile": [{"x": X, "reps": [1, 2, 3]}],
    "select": [{"cond": X > 0, "a": X, "b": Y}],
    "gather": [
        {"x": X[0], "indices": np.array([2, 0, -1], dtype=np.int32), "axis": 0},
        {"x": X[0], "indices": np.array([[3, 0], [1, 1]], dtype=np.int32), "axis": 1},
    ],
    "slice_by_index": [
        {"x": X, "begin": [0, 1, 0], "end": [2, 3, 4]},
        {"x": X, "begin": [0, 0, 1], "end": [0, 0, 4], "begin_mask": [True, True, False], "end_mask": [True] * 3},
        {"x": X, "begin": [0, 0, 0], "end": [2, 3, 4], "stride": [1, 1, 2]},
        {"x": X, "begin": [0, 1, 0], "end": [2, 2, 4], "squeeze_mask": [False, True, False]},
        {"x": X, "begin": [0, -1, 0], "end": [2, 3, 4], "squeeze_mask": [False, True, False]},
    ],
}  # fmt: skip


def _build(name: str, arguments: dict[str, Any]) -> Any:
    """The operation inside a MIL function; its inputs are constants, so coremltools evaluates it."""
    with Function({}, opset_version=ct.target.iOS17):
        given = {k: [mb.const(val=item) for item in v] if k == "values" else v for k, v in arguments.items()}
        result = getattr(mb, name)(**given)
        first = result[0] if isinstance(result, list | tuple) else result
        return first.op


def _ours(op: Any) -> list[np.ndarray]:
    result = OPS[op.op_type](Arguments(op, lambda variable: constant(variable.val)))
    return [item.numpy() for item in (result if isinstance(result, tuple) else (result,))]


CASES = [(name, index) for name, cases in BY_COREMLTOOLS.items() for index in range(len(cases))]


@pytest.mark.parametrize(("name", "index"), CASES, ids=[f"{name}-{index}" for name, index in CASES])
def test_against_coremltools(name: str, index: int) -> None:
    op = _build(name, BY_COREMLTOOLS[name][index])
    expected = [variable.val for variable in op.outputs]
    assert all(value is not None for value in expected), "coremltools did not evaluate it"
    for mine, theirs in zip(_ours(op), expected, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=2e-6, rtol=2e-6)


def _conv_by_loops(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, pad: int, groups: int) -> np.ndarray:
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out_channels, per_group, height, width = w.shape
    rows, columns = (x.shape[2] - height) // stride + 1, (x.shape[3] - width) // stride + 1
    result = np.zeros((1, out_channels, rows, columns))
    for o in range(out_channels):
        first = (o // (out_channels // groups)) * per_group
        for r in range(rows):
            for c in range(columns):
                window = x[
                    0, first : first + per_group, r * stride : r * stride + height, c * stride : c * stride + width
                ]
                result[0, o, r, c] = np.sum(window * w[o]) + b[o]
    return result


@pytest.mark.parametrize(
    ("padding", "stride", "groups", "pad"),
    [("valid", 1, 1, 0), ("custom", 2, 1, 1), ("custom", 1, 4, 2), ("same", 1, 2, 1)],
)
def test_conv(padding: str, stride: int, groups: int, pad: int) -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(1, 4, 7, 6)).astype(np.float32)
    w = random.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    b = random.normal(size=8).astype(np.float32)
    extra = {"pad": [pad] * 4} if padding == "custom" else {}
    arguments = {
        "x": x,
        "weight": w,
        "bias": b,
        "strides": [stride] * 2,
        "pad_type": padding,
        "groups": groups,
        **extra,
    }
    (mine,) = _ours(_build("conv", arguments))
    np.testing.assert_allclose(mine, _conv_by_loops(x, w, b, stride, pad, groups), atol=1e-4)


def test_same_padding_puts_the_odd_pixel_where_it_belongs() -> None:
    """Stride 2 on 6 pixels with a kernel of 3 pads one pixel: below for `same`, above for `same_lower`."""
    x = np.arange(36, dtype=np.float32).reshape(1, 1, 6, 6)
    w = np.ones((1, 1, 3, 3), dtype=np.float32)
    for padding, sides in (("same", (0, 1)), ("same_lower", (1, 0))):
        (mine,) = _ours(_build("conv", {"x": x, "weight": w, "strides": [2, 2], "pad_type": padding}))
        padded = np.pad(x[0, 0], (sides, sides))
        expected = [[padded[r : r + 3, c : c + 3].sum() for c in (0, 2, 4)] for r in (0, 2, 4)]
        np.testing.assert_array_equal(mine[0, 0], expected)


def test_norms() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(1, 3, 2, 5)).astype(np.float32)
    mean, gamma, beta = (random.normal(size=3).astype(np.float32) for _ in range(3))
    variance = np.abs(mean) + 0.5
    arguments = {"x": x, "mean": mean, "variance": variance, "gamma": gamma, "beta": beta, "epsilon": np.float32(0.1)}
    (mine,) = _ours(_build("batch_norm", arguments))
    column = (slice(None), None, None)
    expected = (x[0].astype(np.float64) - mean[column]) / np.sqrt(variance[column] + 0.1) * gamma[column] + beta[column]
    np.testing.assert_allclose(mine[0], expected, atol=1e-5)

    gain, shift = random.normal(size=5).astype(np.float32), random.normal(size=5).astype(np.float32)
    (mine,) = _ours(
        _build("layer_norm", {"x": x, "axes": [-1], "gamma": gain, "beta": shift, "epsilon": np.float32(0.1)})
    )
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.1) * gain + shift
    np.testing.assert_allclose(mine, expected, atol=1e-5)


ELSEWHERE = {"conv", "batch_norm", "layer_norm"}
TRIVIAL = {"identity", "logical_and", "logical_not", "logical_or", "silu", "not_equal", "greater_equal", "less"}


def test_every_operation_is_tested() -> None:
    assert set(OPS) == set(BY_COREMLTOOLS) | ELSEWHERE | TRIVIAL
    on, off = torch.tensor([True, True]), torch.tensor([True, False])
    value: Callable[[dict[str, Any]], Any] = lambda given: type("Op", (), {"inputs": given})()  # noqa: E731
    run = lambda name, **given: OPS[name](Arguments(value(given), lambda v: v))  # noqa: E731
    assert run("logical_and", x=on, y=off).tolist() == [True, False]
    assert run("logical_or", x=on, y=off).tolist() == [True, True]
    assert run("logical_not", x=off).tolist() == [False, True]
    assert run("not_equal", x=on, y=off).tolist() == [False, True]
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])
    assert run("greater_equal", x=one, y=two).tolist() == [False, True]
    assert run("less", x=one, y=two).tolist() == [True, False]
    assert run("identity", x=one).tolist() == [1, 2]
    assert run("silu", x=one)[0].item() == pytest.approx(1 / (1 + np.exp(-1)))

"""ONNX files at lower precisions against the float32 file, and against the definition of what they store."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.target import get_target
from export.targets.parts.onnx_precision import at_precision, weights_as_int8
from export.towers.parity import run_all

pytestmark = pytest.mark.process
INPUT = {"image": "pixels", "text": "tokens"}


@pytest.fixture(params=["image", "text"])
def float_model(request: pytest.FixtureRequest, exported: tuple[Path, Any]) -> tuple[str, Any]:
    import onnx

    return request.param, onnx.load(exported[0] / "onnx-fp32" / f"{request.param}.onnx")


def _embeddings(model: Any, path: Path, inputs: np.ndarray) -> np.ndarray:
    path.write_bytes(model.SerializeToString())
    return run_all(get_target("onnx").load(path), inputs)


@pytest.mark.parametrize(
    ("precision", "ops", "least"),
    [
        ("fp16", set(), 0.99999),
        ("w8", {"DequantizeLinear"}, 0.998),
        ("w8a8-dynamic", {"DynamicQuantizeLinear", "MatMulInteger"}, 0.998),
        ("w8a8", {"QuantizeLinear", "DequantizeLinear"}, 0.99),
    ],
)
def test_precisions(
    precision: str, ops: set[str], least: float, float_model: tuple[str, Any], tmp_path: Path,
    pixels: np.ndarray, tokens: np.ndarray,
) -> None:  # fmt: skip
    tower, model = float_model
    inputs = pixels if tower == "image" else tokens
    before, size = _embeddings(model, tmp_path / "fp32.onnx", inputs), model.ByteSize()
    made = at_precision(model, precision, INPUT[tower], inputs[:6])
    after = _embeddings(made, tmp_path / "made.onnx", inputs)
    assert {node.op_type for node in made.graph.node} >= ops
    cosine = np.sum(before * after, axis=1)
    assert least <= cosine.min() < 1 - 1e-9  # near, and not the same: something was rounded
    assert made.ByteSize() < size * (0.55 if precision == "fp16" else 0.45)
    assert made.ir_version == 9
    assert [(item.domain, item.version) for item in made.opset_import] == [("", 20)]


def test_int8_weights_are_the_nearest_multiples_of_a_scale_per_channel(float_model: tuple[str, Any]) -> None:
    import onnx

    _, model = float_model
    weights = {item.name: onnx.numpy_helper.to_array(item).astype(np.float64) for item in model.graph.initializer}
    made = weights_as_int8(model)
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in made.graph.initializer}
    restored = [node for node in made.graph.node if node.op_type == "DequantizeLinear"]
    assert len(restored) > 5
    for node in restored:
        (integers, scale), weight, axis = (
            (stored[name] for name in node.input),
            weights[node.output[0]],
            node.attribute[0].i,
        )
        assert integers.dtype == np.int8
        moved, wanted = np.moveaxis(integers, axis, 0), np.moveaxis(weight, axis, 0)
        for channel in range(len(scale)):
            error = np.abs(moved[channel] * np.float64(scale[channel]) - wanted[channel])
            assert error.max() <= scale[channel] * (0.5 + 1e-5)
            assert np.abs(moved[channel]).max() == 127
    # The table of token embeddings, most of a small text tower, is among them.
    largest = max(weights.values(), key=np.size)
    assert any(stored[node.input[0]].size == largest.size for node in restored)

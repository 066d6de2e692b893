"""ONNX for Hexagon: what the recipe stores, without Qualcomm's package; and the files in its emulator, where the package is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distill.core.errors import DistillError
from export.run import export_student
from export.settings import ExportSettings
from export.target import get_target
from export.targets.onnx_qnn import PROVIDER, _taken_whole
from export.targets.parts.onnx_precision import for_hexagon


def _model() -> tuple[Any, np.ndarray]:
    """A convolution of 3 to 4 channels, one of them a hundred times larger, then two matrices; and the float kernel."""
    import onnx
    from onnx import TensorProto, helper

    random = np.random.default_rng(0)
    kernel = random.normal(size=(4, 3, 2, 2)).astype(np.float32)
    kernel[1] *= 100
    matrix = random.normal(size=(4, 5)).astype(np.float32)
    square = random.normal(size=(5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["maps"], strides=[2, 2], name="conv"),
        helper.make_node("ReduceMean", ["maps", "axes"], ["pooled"], keepdims=0, name="pool"),
        helper.make_node("MatMul", ["pooled", "matrix"], ["hidden"], name="project"),
        helper.make_node("Gemm", ["hidden", "square"], ["embedding"], name="last"),
    ]
    arrays = {"kernel": kernel, "matrix": matrix, "square": square, "axes": np.array([2, 3], np.int64)}
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in arrays.items()]
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 4, 4])
    made = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "tower", [given], [made], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), kernel


@pytest.mark.parametrize(("precision", "bits"), [("w8a8", 8), ("w8a16", 16)])
def test_activations_are_unsigned_and_weights_signed_of_8_bits(precision: str, bits: int) -> None:
    import onnx

    model, kernel = _model()
    inputs = np.random.default_rng(1).uniform(0, 1, size=(6, 3, 4, 4)).astype(np.float32)
    inputs[2, 0, 0, 0] = 7.0  # in one of the samples alone
    made = for_hexagon(model, precision, "pixels", inputs)
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in made.graph.initializer}
    quantizers = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert {stored[node.input[2]].dtype for node in quantizers} == {np.dtype(f"uint{bits}")}
    (entry,) = (node for node in quantizers if node.input[0] == "pixels")
    step = 7.0 / (2**bits - 1)  # the range is of all samples, and holds 0
    np.testing.assert_allclose(stored[entry.input[1]], step, rtol=1e-5)

    weights = {
        node.input[0]: [stored[name] for name in node.input]
        for node in made.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and stored[node.input[0]].dtype == np.int8
    }
    kernels, matrices = ([value for value in weights.values() if value[0].ndim == n] for n in (4, 2))
    ((integers, scale, zero),) = kernels
    assert not zero.any()  # symmetric
    assert scale.shape == (4,)  # one for each output channel
    # QNN takes one scale of a MatMul alone, and computes a Gemm with more of them wrongly.
    assert [of_table.shape for _, of_table, _ in matrices] == [(), ()]
    assert np.abs(integers.reshape(4, -1)).max(axis=1).min() >= 127  # so that a large channel costs the others nothing
    assert (np.abs(integers * scale[:, None, None, None] - kernel) <= 0.51 * scale[:, None, None, None]).all()
    assert all(np.abs(table).max() >= 127 for table, _, _ in matrices)
    assert "ReduceMean" in {node.op_type for node in made.graph.node}
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert made.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def _part(provider: str, *kinds: str) -> Any:
    return SimpleNamespace(ep_name=provider, get_nodes=lambda: [SimpleNamespace(op_type=kind) for kind in kinds])


def test_what_the_npu_leaves_is_named() -> None:
    assert _taken_whole([_part(PROVIDER, "Conv", "MatMul")], "75") == 1
    mixed = [_part(PROVIDER, "Conv"), _part("CPUExecutionProvider", "NonZero", "Erf", "Erf"), _part(PROVIDER, "Add")]
    with pytest.raises(DistillError, match=r"Hexagon V73 does not take the whole tower: 2 Erf, 1 NonZero would run"):
        _taken_whole(mixed, "73")


def test_names() -> None:
    target = get_target("qnn")
    assert (target.folder, get_target("hexagon-int8").folder) == ("onnx-qnn-fp16", "onnx-qnn-w8a16")
    assert "emulator" in target.checked_by
    assert "cycle counts" in str(target.no_latency)


@pytest.mark.process
def test_files_agree_with_the_student(
    student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    try:
        found = get_target("onnx-qnn").environment.find()
    except DistillError as absent:
        pytest.skip(str(absent))
    settings = ExportSettings(targets=("onnx-qnn",), precisions=("fp16", "w8a16"), jobs=2, min_cosine_quantized=0.99)
    arguments: dict[str, Any] = {"pixels": pixels, "tokens": tokens, "licence": "x", "provenance": {}, "resume": False}
    artifacts = export_student(student_dir, tmp_path, settings, calibration=(pixels[:6], tokens[:6]), **arguments)
    assert [(a.precision, a.tower) for a in artifacts] == [(p, t) for p in ("fp16", "w8a16") for t in ("image", "text")]
    for artifact in artifacts:
        assert artifact.parity.checked_by == "Qualcomm's emulator of Hexagon V75, on this CPU"
        assert artifact.operations.delegated == sum(artifact.operations.counts.values())
        assert artifact.operations.subgraphs == 1
        least = 0.9999 if artifact.precision == "fp16" else 0.99
        # Other arithmetic than this CPU's: never quite the same.
        assert least < artifact.parity.cosine_min < 1 - 1e-8
    assert artifacts[0].versions["onnxruntime-qnn"] == found.versions["onnxruntime-qnn"]

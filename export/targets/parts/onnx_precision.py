"""A float32 ONNX model at a lower precision, by ONNX Runtime's own tools. Left out: making the float32 one."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.app.form import batches

if TYPE_CHECKING:
    from onnx import ModelProto

    from distill.core.arrays import Array
    from export.targets.parts.kept import Kept

SMALLEST = 1024  # numbers in a weight that is worth a scale of its own
# Where the integer kernels are and where most multiplications are done; the rest stays in floats.
MULTIPLYING = ["Conv", "MatMul", "Gemm"]
# (op, place of the weight) -> the axis that has a scale per entry: the output channels, or the rows of a table.
CHANNELS = {("Conv", 1): 0, ("MatMul", 1): 1, ("Gather", 0): 0}


def at_precision(
    model: "ModelProto", precision: str, given: str, calibration: "Array | None", kept: "Kept | None" = None
) -> "ModelProto":
    """`model` at "fp16", "w8", "w8a8-dynamic" or "w8a8".

    Args:
        given: name of its input.
        calibration: [n, ...] inputs, for "w8a8".
        kept: the weights that stay floats, and what multiplies with them.
    """
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        half: ModelProto = convert_float_to_float16(model, keep_io_types=True)
        return half
    if precision == "w8":
        return weights_as_int8(model, kept)
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    with _prepared(model) as (source, made):
        if precision == "w8a8-dynamic":
            # A table of embeddings is not multiplied: its rows are taken, each by a scale of its own.
            quantize_dynamic(
                source,
                made,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                nodes_to_exclude=_readers(_read(source), kept),
            )
            return weights_as_int8(_read(made), kept)
        assert calibration is not None
        quantize_static(
            source,
            made,
            _Samples(model, given, calibration),
            op_types_to_quantize=MULTIPLYING,
            per_channel=True,
            nodes_to_exclude=_readers(_read(source), kept),
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": False},
        )
        return weights_as_int8(_read(made), kept)


def _readers(model: "ModelProto", kept: "Kept | None") -> list[str]:
    """Names of the nodes that read a weight which is kept."""
    import onnx

    if kept is None:
        return []
    held = {item.name for item in model.graph.initializer if kept.holds(onnx.numpy_helper.to_array(item))}
    names = [node.name for node in model.graph.node if held & set(node.input)]
    return [
        *names,
        *(f"{name}_MatMul" for name in names),
    ]  # quantize_dynamic makes a MatMul and an Add of each Gemm first


def for_hexagon(model: "ModelProto", precision: str, given: str, calibration: "Array") -> "ModelProto":
    """`model` at "w8a8" or "w8a16" as Qualcomm's NPU takes it: activations unsigned, of 8 or 16 bits, each tensor with one
    scale; weights int8, symmetric, a scale per output channel of a convolution and one for a matrix. What is not multiplied
    stays in floats, which the NPU computes in fp16: a whole text tower of 8 bits had a cosine below 0.3.

    Args:
        given: name of its input.
        calibration: [n, ...] inputs.
    """
    from onnxruntime.quantization import QuantType, quantize
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    with _prepared(model) as (source, made):
        # ONNX Runtime's recipe gives MatMul one scale, and Gemm, which it fuses MatMul and Add to, one per channel. That is
        # wrong with 16-bit activations in all rows but the first: cosine 0.06 in Qualcomm's emulator.
        matrices = {node.input[1] for node in _read(source).graph.node if node.op_type == "Gemm"}
        settings = get_qnn_qdq_config(
            source,
            _Samples(model, given, calibration),
            activation_type={"w8a8": QuantType.QUInt8, "w8a16": QuantType.QUInt16}[precision],
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=MULTIPLYING,
            init_overrides={name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in sorted(matrices)},
        )
        quantize(source, made, settings)
        return _read(made)


def weights_as_int8(model: "ModelProto", kept_floats: "Kept | None" = None) -> "ModelProto":
    """Store large weights as int8 with a scale per output channel, and restore them in the graph.

    Symmetric, to the nearest, the largest magnitude of a channel at 127: w = scale[channel] * q. Weights that several
    nodes use, or that are stored otherwise than float32, stay as they are; so do those of `kept_floats`.
    """
    import onnx

    users: dict[str, list[tuple[str, int]]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            users.setdefault(name, []).append((node.op_type, place))
    kept, nodes = [], []
    for weight in model.graph.initializer:
        used = users.get(weight.name, [])
        axis = _channel_axis(used, len(weight.dims))
        if axis is None or weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < SMALLEST:
            kept.append(weight)
            continue
        values = onnx.numpy_helper.to_array(weight)
        if kept_floats is not None and kept_floats.holds(values):
            kept.append(weight)
            continue
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.maximum(np.abs(values).max(axis=others), 1e-12).astype(np.float32) / 127
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        rounded = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
        stored = f"{weight.name}_int8", f"{weight.name}_scale"
        kept += [
            onnx.numpy_helper.from_array(value, name) for value, name in zip((rounded, scale), stored, strict=True)
        ]
        nodes.append(onnx.helper.make_node("DequantizeLinear", stored, [weight.name], axis=axis))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    computed = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *computed])
    return model


def _channel_axis(users: list[tuple[str, int]], dimensions: int) -> int | None:
    if len(users) != 1:
        return None
    (op, place) = users[0]
    if op == "MatMul" and place == 1 and dimensions != 2:
        return None
    return CHANNELS.get((op, place))


@contextlib.contextmanager
def _prepared(model: "ModelProto") -> Iterator[tuple[str, str]]:
    """Paths of the model with constants folded and shapes known, as the quantizers want it, and of what they make."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as name:
        plain, ready, made = (str(Path(name) / file) for file in ("plain.onnx", "ready.onnx", "made.onnx"))
        onnx.save(model, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        yield ready, made


def _read(path: str) -> "ModelProto":
    """The model in a file, without the operator sets that the quantizers declare and none of its nodes is of."""
    import onnx

    model = onnx.load(path)
    used = {node.domain for node in model.graph.node} | {""}
    needed = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(needed)
    model.ClearField("metadata_props")
    return model


class _Samples:
    """The calibration inputs, as ONNX Runtime asks for them: those of one call at a time, then None."""

    def __init__(self, model: "ModelProto", name: str, values: "Array") -> None:
        (size,) = (item.type.tensor_type.shape.dim[0].dim_value for item in model.graph.input if item.name == name)
        self.left = iter({name: np.ascontiguousarray(rows)} for rows in batches(values, size))

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)

"""LiteRT (once TensorFlow Lite), as a .tflite file. Left out: files compiled for one phone's NPU, which need its vendor's SDK,
and whole towers in int8 with learned scales: that wrecks text towers (cosine 0.4, by LayerNorm's squares and the last norm)
and makes the interface int8. `w8a8` and `w8a16` are of convolutions and linear layers, where the work is.

The packages are large and pin others, hence an environment. Nothing here is imported outside of it.
"""

import os
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.packages.environment import Environment
from export.app.form import batches
from export.artifacts.record import Operations, Tower
from export.target import INPUT_NAMES, OUTPUT_NAMES, TARGETS, Runner, Target
from export.targets.parts.kept import Kept

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array


class LiteRt(Target):
    """One .tflite file; its signature has the tower's input and output by name."""

    name = "litert"
    precisions = ("fp32", "fp16", "w8", "w8a8-dynamic", "w8a8", "w8a16")
    int8 = "w8"  # scales found at each call cost FastViT a quarter of its mean-centred cosine, int8 weights a hundredth
    mixes = ("w8", "w8a8-dynamic", "w8a8", "w8a16")
    suffix = ".tflite"
    eight_bit = "NHWC"  # TensorFlow's own layout, in which its image tools and Android's bitmaps are
    requires = {}  # noqa: RUF012
    runtime = "LiteRT"
    package = "ai-edge-litert"
    environment = Environment(
        "litert",
        requirements=("litert-torch>=0.10,<0.11", "ai-edge-litert>=2.3,<2.4", "ai-edge-quantizer>=0.10,<0.11"),
        modules=("litert_torch", "ai_edge_litert.interpreter", "ai_edge_quantizer.quantizer"),
        gigabytes=2.1,
    )

    @property
    @override
    def checked_by(self) -> str:
        return "LiteRT's interpreter, XNNPACK on this CPU"

    @override
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        _quieten()
        import litert_torch
        import torch

        class Named(torch.nn.Module):  # the names of a signature's outputs are the keys of what the module returns
            def __init__(self, inner: torch.nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
                return {OUTPUT_NAMES[tower]: self.inner(inputs[INPUT_NAMES[tower]])}

        (example,) = program.example_inputs[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch and jax deprecating what the converter uses
            model = litert_torch.convert(Named(program.module()), sample_kwargs={INPUT_NAMES[tower]: example})
        if self.precision.name == "fp32":
            model.export(str(path))
            return _operations(path)
        whole = path.with_name(f"whole-{path.name}")
        try:
            model.export(str(whole))
            samples = None if calibration is None else list(batches(calibration, len(example)))
            _quantize(whole, path, self.precision.name, tower, samples, Kept.of(program, self.options, tower))
        finally:
            whole.unlink(missing_ok=True)
        return _operations(path)

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        _quieten()
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        (signature,) = interpreter.get_signature_list()
        run = interpreter.get_signature_runner(signature)
        ((given, detail),) = run.get_input_details().items()
        (made,) = run.get_output_details()
        dtype = detail["dtype"]

        def call(value: "Array") -> "Array":
            return np.array(run(**{given: value.astype(dtype, copy=False)})[made], dtype=np.float32)

        return call


def _operations(path: Path) -> Operations:
    """What the interpreter is to run, before it hands anything to a delegate."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = Interpreter(
        model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    return Operations(dict(Counter(item["op_name"] for item in plain._get_ops_details())))


def _quantize(
    source: Path, path: Path, precision: str, tower: Tower, calibration: "list[Array] | None", kept: Kept
) -> None:
    from ai_edge_quantizer import qtyping, quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    operation = qtyping.TFLOperationName
    work = quantizer.Quantizer(str(source))
    learned = None
    if precision == "fp16":
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        work.update_quantization_recipe(
            regex=".*",
            operation_name=operation.ALL_SUPPORTED,
            algorithm_key=AlgorithmName.FLOAT_CASTING,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
            ),
        )
    elif calibration is None:
        recipes: dict[str, Any] = {"w8": recipe.weight_only_wi8_afp32, "w8a8-dynamic": recipe.dynamic_wi8_afp32}
        work.load_quantization_recipe(recipes[precision]())
        _spare(work, source, kept)
    else:
        work.add_weight_only_config(".*", operation.EMBEDDING_LOOKUP, num_bits=8)
        for kind in (operation.CONV_2D, operation.DEPTHWISE_CONV_2D, operation.FULLY_CONNECTED):
            bits = {"w8a8": 8, "w8a16": 16}[precision]
            work.add_static_config(".*", kind, activation_num_bits=bits, weight_num_bits=8)
        _spare(work, source, kept)
        learned = _ranges(work, [{INPUT_NAMES[tower]: rows} for rows in calibration])
    work.quantize(learned).export_model(str(path), overwrite=True)


def _spare(work: Any, source: Path, kept: Kept) -> None:
    """Add to the quantizer's recipe that what reads the weights `kept` stays as it is: of matching entries the last holds."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffer

    if not kept.names:
        return
    model = flatbuffer.read_model(str(source))
    for graph in model.subgraphs:
        for operation in graph.operators:
            weights = (flatbuffer.get_tensor_data(graph.tensors[i], model.buffers) for i in operation.inputs if i >= 0)
            if any(weight is not None and weight.dtype.kind == "f" and kept.holds(weight) for weight in weights):
                work.update_quantization_recipe(
                    regex=re.escape(flatbuffer.get_op_scope(operation, graph.tensors)),
                    operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
                    algorithm_key=AlgorithmName.NO_QUANTIZE,
                )
    kept.check("LiteRT's converter")


def _ranges(work: Any, samples: list[dict[str, "Array"]]) -> dict[str, dict[str, Any]]:
    """Every tensor's smallest and largest value over all samples.

    The quantizer is shown one at a time: of several it takes a moving average, which cuts off what only some inputs reach.
    """
    import numpy as np

    found: dict[str, dict[str, Any]] = {}
    for sample in samples:
        for tensor, values in work.calibrate({"serving_default": [sample]}, num_threads=1).items():
            known = found.setdefault(tensor, dict(values))
            for end, widest in (("min", np.minimum), ("max", np.maximum)):
                if end in values:
                    known[end] = widest(known[end], values[end])
    return found


def _quieten() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else jax looks for accelerators


TARGETS.register("litert")(LiteRt())

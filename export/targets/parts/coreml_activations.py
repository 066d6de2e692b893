"""Core ML with int8 inputs to its convolutions and linear layers, scales learned without a Mac (iOS 17).

coremltools' own function runs the model by Core ML to learn ranges, which only a Mac can; here `export.mil` runs the program on
every calibration sample and coremltools' graph pass then puts a quantize and a dequantize operation before each layer. Weights are
compressed afterwards, as for "w8". Left out: inputs of additions and norms, and outputs: int8 there wrecks ViTs.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.app.form import batches
from export.mil.coremltools import import_coremltools
from export.mil.program import MilProgram

if TYPE_CHECKING:
    from torch import Tensor

    from distill.core.arrays import Array

LAYERS = ("conv", "linear")  # their first input becomes int8
PASS = "compression::insert_prefix_quantize_dequantize_pair"
TIDY = "common::dequantize_quantize_pair_elimination"


def quantize_activations(model: Any, samples: "Array", kept: "frozenset[str]" = frozenset()) -> Any:
    """The model with int8 inputs to its layers.

    Args:
        model: an `MLModel` of an ML Program for iOS 17 or later.
        samples: [n, ...] real inputs, as arrays; for a picture in [0, 1].
        kept: names of operations whose inputs stay floats.
    """
    import_coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.models.utils import _apply_graph_pass
    from coremltools.optimize import coreml as optimize

    with tempfile.TemporaryDirectory(prefix="distill-coreml-") as scratch:
        path = Path(scratch) / "floats.mlpackage"
        model.save(str(path))
        found = ranges(MilProgram(path), samples)
    layer = optimize.OpLinearQuantizerConfig(mode="linear", dtype="int8")
    config = optimize.OptimizationConfig(
        op_type_configs=dict.fromkeys(LAYERS, layer), op_name_configs=dict.fromkeys(sorted(kept))
    )
    insert = PASS_REGISTRY[PASS]
    insert.set_options([PassOption("config", config), PassOption("activation_stats", found)])
    version = model.get_spec().specificationVersion
    passes = [insert, PASS_REGISTRY[TIDY]]
    return _apply_graph_pass(model, passes, spec_version=version, skip_model_load=True, pymil_load_func=load)


def ranges(program: MilProgram, samples: "Array") -> dict[str, dict[str, float]]:
    """Name of every float in the program -> its smallest and largest value over all samples, as coremltools' pass wants them."""
    found: dict[str, dict[str, float]] = {}

    def see(name: str, value: "Tensor") -> None:
        if value.is_floating_point():
            low, high = float(value.min()), float(value.max())
            seen = found.setdefault(name, {"rmin": low, "rmax": high})
            seen["rmin"], seen["rmax"] = min(seen["rmin"], low), max(seen["rmax"], high)

    for rows in batches(samples, program.batch):
        program.run(np.ascontiguousarray(rows), see=see)
    return found

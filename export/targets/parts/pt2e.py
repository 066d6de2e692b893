"""torch's own post-training quantization of an exported program ("PT2E"), with a backend's quantizer.

Left out: which operations are quantized how (the quantizer's), and lowering (the target's).
"""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.core.errors import DistillError
from export.app.form import batches

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array

TOLERANCE = 1e-4  # largest difference that preparing may make, before anything is quantized


def quantized(
    program: "ExportedProgram", quantizer: Any, samples: "Array", kept: frozenset[str] = frozenset()
) -> "ExportedProgram":
    """`program` with quantize and dequantize operations where `quantizer` wants them.

    Args:
        program: with fixed shapes, float32 inside.
        quantizer: a torchao Quantizer.
        kept: names of weights in the program's state; what multiplies with them stays as it is.
        samples: [n, ...] real inputs: scales are learned from all of them; scales found at each call need one.

    Raises:
        DistillError: a weight to keep is not there; or preparing changed what the graph computes before anything was quantized.
            torchao folds a BatchNorm into the convolution before it although that output has a second user (FastViT's attention
            blocks); towers are rewritten so that none is left, and this finds a rewrite that was forgotten.
    """
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch and torchao deprecating each other's internals
        # Without guards, which are calls of a module that the quantizers do not know.
        prepared = prepare_pt2e(program.module(check_guards=False), _sparing(quantizer, kept))
        for index, rows in enumerate(batches(samples, len(program.example_inputs[0][0]))):
            value = torch.from_numpy(np.ascontiguousarray(rows))
            made = prepared(value)
            if index == 0:
                _refuse_changed(made, program.module()(value))
        converted = convert_pt2e(prepared)
        return torch.export.export(converted, program.example_inputs[0])


def _sparing(quantizer: Any, kept: frozenset[str]) -> Any:
    """`quantizer`, which leaves alone what reads one of the weights `kept`, and what no input reaches.

    The query of an attention pool is a weight that goes through a linear layer: no delegate takes that layer, and nothing else
    can run it with scales that are found at each call.
    """
    annotate = quantizer.annotate

    def sparing(model: Any) -> Any:
        annotated = annotate(model)
        found = {str(node.target): node for node in annotated.graph.nodes if node.op == "get_attr"}
        for name in kept:
            if name not in found:
                raise DistillError(f"The layer {name!r}, which is to stay in floats, is not in this model.")
            for reader in (found[name], *found[name].users):
                reader.meta.pop("quantization_annotation", None)
        reached: set[Any] = set()
        for node in annotated.graph.nodes:
            if node.op == "placeholder" or reached.intersection(node.all_input_nodes):
                reached.add(node)
            elif node.op == "call_function":
                node.meta.pop("quantization_annotation", None)
        return annotated

    quantizer.annotate = sparing
    return quantizer


def _refuse_changed(prepared: Any, plain: Any) -> None:
    difference = float((prepared - plain).detach().abs().max())
    if not difference <= TOLERANCE:
        raise DistillError(
            f"Preparing the graph for quantization changed what it computes, by {difference:.2g}, before anything was "
            "quantized: a convolution has been folded with a BatchNorm although something else reads it. Please report this model."
        )

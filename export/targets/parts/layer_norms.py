"""LayerNorm as operations that XNNPACK takes: its means are products with a column of 1/D.

XNNPACK has no LayerNorm, and no mean over the last axis. ExecuTorch's own kernel takes it then, and each one cuts the delegated
graph in two: 24 pieces for an 11-layer ViT, 4 without. Left out: LayerNorm over several axes, which no tower has.
"""

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def spread_layer_norms(program: "ExportedProgram") -> "ExportedProgram":
    """The same program with every LayerNorm over the last axis, of D values, written out:

        c = x - x @ m,  y = c / sqrt(c * c @ m + eps) * weight + bias,  m = [1/D, ...]

    The variance is of centred values, as exact as the kernel's own. A program without LayerNorm comes back as it is.
    """
    import torch

    aten = torch.ops.aten
    if not any(node.target == aten.layer_norm.default for node in program.graph.nodes):
        return program
    module = program.module(check_guards=False)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target != aten.layer_norm.default:
            continue
        given: list[Any] = [*node.args, *(None, None, 1e-5)[len(node.args) - 2 :]]
        x, shape, weight, bias, eps = given[:5]
        if len(shape) != 1:
            continue
        mean = f"mean_of_{shape[0]}"
        if not hasattr(module, mean):
            module.register_buffer(mean, torch.full((1, shape[0]), 1.0 / shape[0]))
        with graph.inserting_before(node):
            column = graph.get_attr(mean)

            def call(operator: Any, *arguments: Any) -> Any:
                return graph.call_function(operator, arguments)

            centred = call(aten.sub.Tensor, x, call(aten.linear.default, x, column))
            variance = call(aten.linear.default, call(aten.mul.Tensor, centred, centred), column)
            made = call(aten.mul.Tensor, centred, call(aten.rsqrt.default, call(aten.add.Tensor, variance, eps)))
            if weight is not None:
                made = call(aten.mul.Tensor, made, weight)
            if bias is not None:
                made = call(aten.add.Tensor, made, bias)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
    graph.lint()
    module.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of attributes that its own unlifting made
        return torch.export.export(module, program.example_inputs[0])

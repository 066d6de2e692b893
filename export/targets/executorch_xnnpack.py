"""ExecuTorch with the XNNPACK delegate. Left out: other delegates, tables of embeddings as int8 (XNNPACK does not take them).

fp16 is left out on purpose: XNNPACK does not take LayerNorm, and ExecuTorch 1.4's portable fp16 LayerNorm is wrong
(cosine 0.80 to the eager module).
"""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from export.artifacts.record import Tower
from export.target import TARGETS, Runner
from export.targets.parts.executorch import ExecuTorch

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array


class ExecutorchXnnpack(ExecuTorch):
    """One .pte file for a phone's CPU."""

    name = "executorch-xnnpack"
    precisions = ("fp32", "w8a8-dynamic", "w8a8")
    mixes = ("w8a8-dynamic", "w8a8")
    int8 = "w8a8-dynamic"  # of linear layers, whose weights are most of a ViT; learned scales may wreck it
    runtime = "ExecuTorch XNNPACK"
    reasons = {  # noqa: RUF012
        "embedding": "XNNPACK takes no table look-ups",
        "expand_copy": "XNNPACK does not repeat values; kept where the shape changes",
        "eq_scalar": "of finding the end token: XNNPACK compares no integers",
        "amax": "of the L2 norm: XNNPACK has no maximum over an axis",
        "sum_dim_int_list": "XNNPACK sums over image axes alone",
    }

    @property
    @override
    def checked_by(self) -> str:
        return "executorch runtime, XNNPACK on this CPU"

    @override
    def partitioner(self) -> Any:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # a deprecation inside torchao
        return XnnpackPartitioner()

    @override
    def prepared(self, program: "ExportedProgram", tower: Tower, calibration: "Array | None") -> "ExportedProgram":
        from export.targets.parts.layer_norms import spread_layer_norms

        if self.precision.name != "fp32":
            program = _quantized(program, calibration, frozenset(self.options.get("kept", {}).get(tower, ())))
        return spread_layer_norms(program)  # last: their means are no weights, which a quantizer would take them for

    @override
    def passes(self) -> list[Any]:
        return [_drop_idle_expands()]

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the Python runtime announces that it is experimental
            from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
            from executorch.runtime import Runtime

            _unsafe_reset_threadpool(threads)
            program = Runtime.get().load_program(path)
            method = program.load_method("forward")

        def run(value: "Array") -> "Array":
            # The runtime reuses its output memory, hence the copy.
            result: Array = method.execute([torch.from_numpy(value)])[0].numpy().copy()
            return result

        return run


def _quantized(
    program: "ExportedProgram", calibration: "Array | None", kept: frozenset[str] = frozenset()
) -> "ExportedProgram":
    """Linear layers with int8 weights, a scale per channel: activations by scales found at each call, or learned ones.

    With `calibration`, convolutions too. Sums, products and the L2 norm stay in floats: quantized as well, which is what the
    quantizer does when it is left to itself, they wreck the embeddings of a ViT (mean-centred cosine 0.34 for 0.99).
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # executorch's imports use what Python deprecates
        import executorch.exir  # noqa: F401  # before its quantizers, which import it in a circle
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )

    from export.targets.parts.pt2e import quantized

    quantizer = XNNPACKQuantizer()
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=calibration is None)
    layers = [torch.ops.aten.linear.default]
    if calibration is not None:
        layers.append(torch.ops.aten.conv2d.default)
    for layer in layers:
        quantizer.set_operator_type(layer, config)
    samples = program.example_inputs[0][0].numpy() if calibration is None else calibration
    return quantized(program, quantizer, samples, kept)


def _drop_idle_expands() -> Any:
    """A pass that removes `expand` to the shape a tensor already has.

    Decomposing a batched matmul leaves two of them per attention block. XNNPACK does not take `expand`, so each one cuts
    the graph: without them the default student's image tower falls into 10 delegated pieces instead of 17, and is
    lowered and run in half the time.
    """
    from executorch.exir.dialects._ops import ops as exir_ops
    from executorch.exir.pass_base import ExportPass

    class DropIdleExpands(ExportPass):  # type: ignore[misc]
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op == exir_ops.edge.aten.expand_copy.default and args[0].data.shape == meta["val"].shape:
                return args[0]
            return super().call_operator(op, args, kwargs, meta)

    return DropIdleExpands()


TARGETS.register("executorch-xnnpack")(ExecutorchXnnpack())

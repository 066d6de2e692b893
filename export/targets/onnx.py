"""ONNX through torch's dynamo exporter. Left out: execution providers other than the CPU's, and how lower precisions are made
(`export.targets.parts.onnx_precision`)."""

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from export.artifacts.precision import PrecisionName
from export.artifacts.record import Operations, Tower
from export.target import INPUT_NAMES, OUTPUT_NAMES, TARGETS, Runner, Target
from export.targets.parts.kept import Kept

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

    from distill.core.arrays import Array
    from export.app.licence import Notice
    from export.settings import ExportSettings

OPSET = 20  # the first with a Gelu of its own, so that runtimes see one node instead of five
# Of the file's frame; the first that may hold opset 20. A later one adds nothing to these graphs (10: 4-bit numbers), and
# shuts out ONNX Runtime 1.17, which apps still carry.
IR_VERSION = 9


class Onnx(Target):
    """One self-contained .onnx file."""

    name = "onnx"
    precisions: ClassVar[tuple[PrecisionName, ...]] = ("fp32", "fp16", "w8", "w8a8-dynamic", "w8a8")
    int8: ClassVar[PrecisionName | None] = (
        "w8a8-dynamic"  # needs no calibration and spares convolutions and ViTs, which learned scales may wreck
    )
    mixes: ClassVar[tuple[PrecisionName, ...]] = ("w8", "w8a8-dynamic", "w8a8")
    suffix = ".onnx"
    requires = {"onnx": "onnx>=1.18", "onnxscript": "onnxscript>=0.5", "onnxruntime": "onnxruntime>=1.20"}  # noqa: RUF012
    runtime = "ONNX Runtime"
    package = "onnxruntime"

    @property
    @override
    def checked_by(self) -> str:
        return "onnxruntime, CPU"

    @override
    def own_options(self, settings: "ExportSettings") -> dict[str, Any]:
        chosen = settings.onnx.ir_version
        return {} if chosen == IR_VERSION else {"ir_version": chosen}

    @override
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecating its own internals while it copies the program
            # The output's name must differ from every node's ("embedding" is one), or the file does not load.
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAMES[tower]],
                output_names=[OUTPUT_NAMES[tower]],
                external_data=False,
                verbose=False,
            )
        assert exported is not None  # None only for the old exporter
        model = exported.model_proto
        model.ir_version = int(self.options.get("ir_version", IR_VERSION))
        # Stack traces with the paths of this machine: no use on a phone, and two machines would write different bytes.
        for item in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
        for item in (*model.graph.input, *model.graph.output, *model.functions):
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
        kept = Kept.of(program, self.options, tower)
        model = self.lower(model, tower, calibration, kept)
        kept.check("ONNX Runtime's quantizer")
        path.write_bytes(model.SerializeToString(deterministic=True))
        return Operations(dict(Counter(node.op_type for node in model.graph.node)))

    def lower(self, model: "ModelProto", tower: Tower, calibration: "Array | None", kept: Kept) -> "ModelProto":
        """The float32 model at this precision; `calibration` as of `convert`, `kept`: what stays floats."""
        if self.precision.name == "fp32":
            return model
        from export.targets.parts.onnx_precision import at_precision

        return at_precision(model, self.precision.name, INPUT_NAMES[tower], calibration, kept)

    @override
    def sign(self, path: Path, tower: Tower, notice: "Notice") -> None:
        import onnx

        model = onnx.ModelProto.FromString(path.read_bytes())
        facts = {"license": notice.licence, "author": notice.origin, "description": notice.describe(tower)}
        onnx.helper.set_model_props(model, facts)
        path.write_bytes(model.SerializeToString(deterministic=True))

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(value: "Array") -> "Array":
            return np.asarray(session.run(None, {name: value})[0])

        return run


class OrtFormat(Onnx):
    """One .ort file: the same model in ONNX Runtime's own form, which its small builds for phones read without the ONNX parser.

    Two conversions differ in the order of tables inside, not in length or in what they compute.
    """

    name = "ort"
    suffix = ".ort"

    @property
    @override
    def runs_on(self) -> str:
        return "ONNX Runtime 1.20 and later, small builds too, on Android, iOS and others"

    @override
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        whole = path.with_suffix(".onnx")
        try:
            super().convert(program, tower, whole, calibration=calibration)
            return Operations(_to_ort(whole, path))
        finally:
            whole.unlink(missing_ok=True)

    @override
    def sign(self, path: Path, tower: Tower, notice: "Notice") -> None:
        """Nothing: the format has no place for terms; they lie beside the file."""


def _to_ort(source: Path, path: Path) -> dict[str, int]:
    """Write the optimised graph in ORT format; returns operation -> how many."""
    import onnx

    _optimise(source, path, "ORT")
    seen = source.with_suffix(".optimised.onnx")  # the same graph in a form that tells its nodes
    try:
        _optimise(source, seen, "ONNX")
        return dict(Counter(node.op_type for node in onnx.load(seen).graph.node))
    finally:
        seen.unlink(missing_ok=True)


def _optimise(source: Path, path: Path, form: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The last level whose result does not hang on the CPU that it is made on.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", form)
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


TARGETS.register("onnx")(Onnx())
TARGETS.register("ort")(OrtFormat())

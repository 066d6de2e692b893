"""Core ML ML Program, as an .mlpackage: one for each tower, or one whose functions they are. Left out: state, pipelines.

Core ML itself runs on Apple systems alone. Elsewhere the saved package is read back and run by `export.mil`.
"""

import copy
import json
import shutil
import sys
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self, override

from distill.core.errors import UsageError
from export.app.form import Form
from export.artifacts.record import Operations, Tower
from export.mil.coremltools import forget_earlier_programs, import_coremltools
from export.target import INPUT_NAMES, OUTPUT_NAMES, TARGETS, Runner, Target
from export.targets.parts.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.export import ExportedProgram

    from distill.core.arrays import Array
    from export.app.licence import Notice
    from export.settings import ExportSettings

TOGETHER = "towers.mlpackage"
ORDERS = (2, 8)  # in how many pieces sums are added, as hardware does that works tile by tile; see export.mil.sums
# Random in every package otherwise, so that no two exports would be equal.
PACKAGE_IDS = uuid.UUID("5c0a5f5e-6e3b-5b4e-9a57-0d1571110000")


class CoreMl(Target):
    """One .mlpackage folder."""

    name = "coreml"
    precisions = ("fp16", "fp32", "w8", "p8", "p6", "p4", "w8a8")
    mixes = ("w8", "p8", "p6", "p4", "w8a8")
    int8 = "w8"
    suffix = ".mlpackage"
    eight_bit = "picture"  # its arrays hold no bytes, and Vision hands over pictures
    requires = {"coremltools": "coremltools>=9,<10"}  # noqa: RUF012
    runtime = "Core ML"
    package = "coremltools"
    function: str | None = None  # of a package that has several, the one that is loaded

    @property
    @override
    def runs_on(self) -> str:
        return f"Core ML of iOS {self.minimum_ios}, macOS {self.minimum_ios - 3} and later"

    @property
    def minimum_ios(self) -> int:
        """The oldest system that loads the files: what was chosen, 17 for int8 activations, 18 for palettes of 16 values and for
        packages of several functions."""
        needed = max({"p4": 18, "w8a8": 17}.get(self.precision.name, 0), 18 if self.together else 0)
        return max(int(self.options.get("minimum_ios", 17)), needed)

    @property
    def together(self) -> bool:
        """Whether one package has all towers as its functions."""
        return bool(self.options.get("multifunction"))

    @override
    def file_of(self, tower: Tower) -> str:
        return TOGETHER if self.together else super().file_of(tower)

    @override
    def of(self, tower: Tower) -> Self:
        if not self.together:
            return self
        other = copy.copy(self)
        other.function = tower
        return other

    @override
    def combine(self, folder: Path, towers: Iterable[Tower]) -> None:
        if not self.together:
            return
        ct = import_coremltools()
        forget_earlier_programs()
        from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction

        descriptor, parts = (
            MultiFunctionDescriptor(),
            {tower: folder / super(CoreMl, self).file_of(tower) for tower in towers},
        )
        for tower, path in parts.items():
            descriptor.add_function(str(path), src_function_name="main", target_function_name=tower)
        descriptor.default_function_name = next(iter(parts))
        whole = folder / TOGETHER
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside coremltools
            save_multifunction(descriptor, str(whole))
        spec = ct.models.MLModel(str(whole), skip_model_load=True).get_spec()
        _settle_package(whole, spec.SerializeToString(deterministic=True))
        for path in parts.values():
            shutil.rmtree(path)

    @override
    def own_options(self, settings: "ExportSettings") -> dict[str, Any]:
        usual = type(settings.coreml)().model_dump()
        chosen = {name: value for name, value in settings.coreml.model_dump().items() if value != usual[name]}
        sizes = sorted({*chosen.pop("batches", ())})
        if sizes and (settings.input == "uint8" or settings.batch > 1):
            other = 'export.input = "uint8", since a call takes one picture' if settings.batch == 1 else "export.batch"
            raise UsageError(
                f"export.coreml.batches goes with floats alone, and not with {other}. Leave one of them away."
            )
        return chosen | (
            {"batches": sizes} if len(sizes) > 1 else {"batch": sizes[0]} if sizes != [1] and sizes else {}
        )

    @property
    @override
    def form(self) -> Form:
        first, *further = self.options.get("batches") or [super().form.batch]
        return replace(super().form, batch=first, further=tuple(further))

    @property
    @override
    def checked_by(self) -> str:
        if sys.platform == "darwin":
            return "Core ML on this Mac"
        rounding = "" if self.precision.name == "fp32" else " with fp16 rounding after each operation"
        expanded = ", compressed weights expanded" if self.precision.closeness == "quantized" else ""
        return f"the saved MIL program run in torch{rounding}{expanded}, not Core ML itself"

    @property
    @override
    def no_latency(self) -> str | None:
        return None if sys.platform == "darwin" else "Core ML runs on Apple systems only, and this is not one"

    @override
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        ct = import_coremltools()
        forget_earlier_programs()
        import numpy as np

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy and torch deprecations inside coremltools
            model = ct.convert(
                _without_aliases(program.run_decompositions({})),
                minimum_deployment_target=getattr(ct.target, f"iOS{self.minimum_ios}"),
                inputs=self._inputs(ct, program, tower),
                compute_precision=ct.precision.FLOAT32 if self.precision.name == "fp32" else ct.precision.FLOAT16,
                # float32 outside, whatever is inside: Swift reads a float32 array without conversion code.
                outputs=[ct.TensorType(name=OUTPUT_NAMES[tower], dtype=np.float32)],
                skip_model_load=True,
            )
            if self.precision.closeness == "quantized":
                from export.targets.parts.coreml_weights import compress, readers

                kept = Kept.of(program, self.options, tower)
                spared = readers(model, kept)
                kept.check("Core ML's converter")
                if calibration is not None:
                    from export.targets.parts.coreml_activations import quantize_activations

                    model = quantize_activations(model, calibration, spared)
                model = compress(model, self.precision.name, labels=tower == "classifier", spared=spared)
            spec = model.get_spec()
            spec.description.input[0].shortDescription = {
                "image": "RGB, resized as artifact.json says; normalisation is inside",
                "text": "token ids as artifact.json says: start, pieces, end, padding",
            }["text" if tower == "text" else "image"]
            spec.description.output[0].shortDescription = (
                "a probability per label, in the order of labels.txt"
                if tower == "classifier"
                else "unit-length embedding; a dot product is the cosine"
            )
            # The date of the conversion would make two equal exports differ.
            spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
            assert [i.name for i in spec.description.input] == [INPUT_NAMES[tower]]
            ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))
        _settle_package(path, spec.SerializeToString(deterministic=True))
        return Operations(_count(spec))

    def _inputs(self, ct: Any, program: "ExportedProgram", tower: Tower) -> "list[Any] | None":
        """What coremltools is told of the input; None = what the program says of it."""
        example, form = program.example_inputs[0][0], self.form
        if tower != "text" and form.pixels == "uint8":
            # A picture, whose 8-bit values Core ML divides by 255.
            layout, name = ct.colorlayout.RGB, INPUT_NAMES[tower]
            return [ct.ImageType(name=name, shape=tuple(example.shape), scale=1 / 255, color_layout=layout)]
        if not form.further:
            return None
        import numpy as np

        shapes = [[one.batch, *example.shape[1:]] for one in form.each]
        dtype = np.int32 if tower == "text" else np.float32
        shape = ct.EnumeratedShapes(shapes=shapes, default=shapes[0])
        return [ct.TensorType(name=INPUT_NAMES[tower], shape=shape, dtype=dtype)]

    @override
    def sign(self, path: Path, tower: Tower, notice: "Notice") -> None:
        ct = import_coremltools()
        (file,) = path.glob("Data/*/*.mlmodel")
        spec = ct.proto.Model_pb2.Model.FromString(file.read_bytes())
        metadata = spec.description.metadata
        metadata.license, metadata.author = notice.licence, notice.origin
        metadata.shortDescription = notice.describe(None if self.together else tower)
        file.write_bytes(spec.SerializeToString(deterministic=True))

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        """As every target's; `threads` is without effect on Apple systems, where Core ML chooses its own."""
        import numpy as np

        if sys.platform == "darwin":
            ct = import_coremltools()
            model = ct.models.MLModel(str(path), function_name=self.function)
            description = model.get_spec().description
            if self.function is not None:
                description = next(one for one in description.functions if one.name == self.function)
            given, made = description.input[0].name, description.output[0].name
            picture = description.input[0].type.WhichOneof("Type") == "imageType"

            def predict(value: "Array") -> "Array":
                shown = _as_picture(value) if picture else value
                return np.asarray(model.predict({given: shown})[made], dtype=np.float32)

            return predict
        return self._interpreted(path)(1)

    @override
    def other_orders(self, path: Path) -> list[Runner]:
        runs = self._interpreted(path)
        return [runs(blocks) for blocks in ORDERS]

    @override
    def first_divergence(self, path: Path, value: "Array") -> str:
        from export.mil.program import MilProgram

        return MilProgram(path, self.function).first_divergence(value)

    def _interpreted(self, path: Path) -> "Callable[[int], Runner]":
        """The program with its sums in so many pieces."""
        from export.mil.program import MilProgram

        program = MilProgram(path, self.function)

        def runs(blocks: int) -> Runner:
            return lambda value: program.run(value, blocks=blocks)

        return runs


def _as_picture(value: "Array") -> Any:
    """8-bit values [1, 3, S, S] -> the picture."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(value[0].transpose(1, 2, 0).astype(np.uint8))


def _count(spec: Any) -> dict[str, int]:
    """Operation -> how many, of an ML Program; weights and other constants are none."""
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    return dict(Counter(item.type for item in block.operations if item.type != "const"))


def _without_aliases(program: "ExportedProgram") -> "ExportedProgram":
    """The program without nodes that only name another one again, which coremltools does not know (attention pools have some)."""
    import torch

    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target == torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return program


def _settle_package(path: Path, spec: bytes) -> None:
    """Make a saved package the same for the same program: fixed ids, canonical protobuf, no debugging leftovers."""
    manifest_file = path / "Manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    renamed = {old: str(uuid.uuid5(PACKAGE_IDS, item["path"])) for old, item in manifest["itemInfoEntries"].items()}
    manifest["itemInfoEntries"] = {renamed[old]: item for old, item in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = renamed[manifest["rootModelIdentifier"]]
    manifest_file.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    listed = {item["path"].split("/")[0] for item in manifest["itemInfoEntries"].values()}
    for child in path.iterdir():
        if child.name not in ("Manifest.json", "Data"):  # a table of ExecuTorch debug handles, outside the manifest
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    (path / "Data" / next(iter(listed)) / "model.mlmodel").write_bytes(spec)


TARGETS.register("coreml")(CoreMl())

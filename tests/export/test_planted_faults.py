"""Planted faults, each of which must be refused with a message that names it: in graphs, in towers, in inputs, in exported folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.core.errors import DistillError, UsageError
from export.app.classes import Classes
from export.app.form import Form
from export.artifacts.folder import ARTIFACT_FILE, examine, read_artifacts
from export.towers.classifier import Classifier, check_classifier, label_embeddings, template_embeddings
from export.towers.faults import check_program, explain_bytes
from export.towers.programs import check_inputs
from export.towers.tower import check_form, check_towers, deployable_towers
from students.student import Student

L = 16


class _Tower(nn.Module):
    """A small image tower to plant graph faults in."""

    def __init__(
        self, change: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None, **buffers: torch.Tensor
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm, self.change = nn.Linear(4, 8), nn.BatchNorm1d(8).eval(), change
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y if self.change is None else self.change(self, y)


def _attend(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
    heads = y.reshape(-1, 2, 2, 2)
    return nn.functional.scaled_dot_product_attention(heads, heads, heads).reshape(-1, 8)


def _table(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
    grown = nn.functional.interpolate(module.table, (4, 4), mode="bilinear")  # type: ignore[arg-type]
    return y + grown.mean()


X = torch.rand(1, 4)
BATCH = torch.export.Dim("batch", min=1, max=8)
GRAPHS: dict[str, tuple[nn.Module, dict[str, Any], str]] = {
    "dynamic batch": (_Tower(), {"args": (torch.rand(2, 4),), "dynamic_shapes": {"x": {0: BATCH}}}, "no fixed shape"),
    "batch of two": (_Tower(), {"args": (torch.rand(2, 4),)}, "batch 2, not 1"),
    "half precision in": (_Tower().half(), {"args": (X.half(),)}, "input is torch.float16, not torch.float32"),
    "integers in": (_Tower(lambda m, y: y), {"args": (X.double(),)}, "input is torch.float64"),
    "three axes out": (_Tower(lambda m, y: y[None]), {"args": (X,)}, "3 axes, not float32 \\[1, D\\]"),
    "half precision out": (_Tower(lambda m, y: y.half()), {"args": (X,)}, "output is torch.float16"),
    "mask of -inf": (_Tower(lambda m, y: y + m.mask, mask=torch.full((8,), -torch.inf)), {"args": (X,)}, "mask holds infinity"),
    "mask of float32's minimum": (_Tower(lambda m, y: y + m.mask, mask=torch.full((8,), torch.finfo(torch.float32).min)), {"args": (X,)}, "beyond 65504"),
    "NaN in a weight": (_Tower(lambda m, y: y * m.gain, gain=torch.full((8,), torch.nan)), {"args": (X,)}, "gain holds NaN"),
    "unfolded BatchNorm": (_Tower(lambda m, y: m.norm(y)), {"args": (X,)}, "BatchNorm that is not folded"),
    "fused attention": (_Tower(_attend), {"args": (X,)}, "fused attention"),
    "training mode": (_Tower(lambda m, y: nn.functional.dropout(y, 0.5, training=True)), {"args": (X,)}, "training mode"),
    "search for the end": (_Tower(lambda m, y: y + y.argmax(-1, keepdim=True)), {"args": (X,)}, "search for the end token"),
    "table resized at every call": (_Tower(_table, table=torch.rand(1, 1, 2, 2)), {"args": (X,)}, "resize of a table"),
}  # fmt: skip


@pytest.mark.parametrize("fault", GRAPHS)
def test_graphs(fault: str) -> None:
    module, call, named = GRAPHS[fault]
    if fault == "integers in":
        module = module.double()
    program = torch.export.export(module.eval(), **call)
    with pytest.raises(DistillError, match=named):
        check_program(program, "image")


def test_a_text_graph_of_long_integers() -> None:
    program = torch.export.export(nn.EmbeddingBag(5, 3), (torch.zeros(1, 4, dtype=torch.int64),))
    with pytest.raises(DistillError, match=r"input is torch\.int64, not torch\.int32"):
        check_program(program, "text")


def test_sound_graphs_pass(student: Student) -> None:
    image, text = deployable_towers(student)
    check_program(torch.export.export(image, (torch.rand(1, 3, 32, 32),)), "image")
    check_program(torch.export.export(text, (torch.zeros(1, L, dtype=torch.int32),)), "text")


def test_a_resize_of_what_the_input_gives_is_no_fault() -> None:
    def grow(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(y.reshape(1, 1, 2, 4), (4, 4), mode="bilinear").reshape(1, 16)

    check_program(torch.export.export(_Tower(grow).eval(), (X,)), "image")


def _flip_channels(image: Any, text: Any) -> None:
    image.visual.conv1.weight.copy_(image.visual.conv1.weight.flip(1))
    image.scale.copy_(image.scale.flip(1))
    image.shift.copy_(image.shift.flip(1))


def _twice(image: Any, text: Any) -> None:
    inner = image.visual.conv1
    image.visual.conv1 = nn.Sequential(_Affine(image.scale.clone(), image.shift.clone()), inner)


class _Affine(nn.Module):
    def __init__(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


def _before(image: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    forward = image.forward
    image.forward = lambda pixels: forward(change(pixels))


TOWERS: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "channels swapped": (_flip_channels, "image: its channels are swapped"),
    "no normalisation": (lambda image, text: setattr(image, "normalises", False), "image: the normalisation is missing"),
    "normalised twice": (_twice, "image: the normalisation is applied twice"),
    "pixels up to 255": (lambda image, text: _before(image, lambda x: x / 255), r"image: it takes pixels in \[0, 255\]"),
    "mirrored": (lambda image, text: _before(image, lambda x: x.flip(3)), "image: it sees images mirrored"),
    "upside down": (lambda image, text: _before(image, lambda x: x.flip(2)), "image: it sees images upside down"),
    "rows for columns": (lambda image, text: _before(image, lambda x: x.transpose(2, 3)), "rows and columns"),
    "NaN in a layer": (lambda image, text: image.scale.fill_(float("nan")), "image: its embeddings hold NaN"),
    "no L2 norm": (lambda image, text: setattr(image, "forward", lambda x, run=image.forward: run(x) * 3), "image: its embeddings are not of unit length"),
    "sign": (lambda image, text: setattr(image, "forward", lambda x, run=image.forward: -run(x)), "image: its embeddings have the opposite sign"),
    "causal mask lost": (lambda image, text: setattr(text, "mask", None), "text: it reads what stands behind"),
    "pooled at the padding": (lambda image, text: setattr(text.pool, "eot", 0), "text: it reads what stands behind"),
    "tokens off by one": (lambda image, text: _before(text, lambda x: (x - 1).clamp(min=0)), "text: "),
    "another weight": (lambda image, text: text.norm.weight.mul_(torch.linspace(-1, 1, 32)), "text: a rewrite does not fit"),
}  # fmt: skip


@pytest.mark.parametrize("fault", TOWERS)
def test_towers(fault: str, student: Student, pixels: np.ndarray, tokens: np.ndarray) -> None:
    image, text = deployable_towers(student)
    plant, named = TOWERS[fault]
    with torch.no_grad():
        plant(image, text)
    with pytest.raises(DistillError, match=named):
        check_towers(student, image, text, torch.from_numpy(pixels[:4]), torch.from_numpy(tokens[:4]))


def _weigh(classifier: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    classifier.labels.weight = nn.Parameter(change(classifier.labels.weight), requires_grad=False)


def _labelled(classifier: Any, labels: torch.Tensor, **changes: Any) -> None:
    """Put other labels' embeddings into a classifier that is otherwise sound."""
    facts = {"logit_scale": SCALE, "logit_bias": BIAS if classifier.kind == "sigmoid" else 0.0, "kind": classifier.kind}
    classifier.labels = Classifier(classifier.image, labels, **(facts | changes)).labels


CLASSES = Classes(("red circle", "two boats", "dog", "a hill"), ("a photo of a {}.", "{}"))
SCALE, BIAS = 30.0, -7.0
ORDER = [2, 0, 1, 3]
# (kind, what is wrong, what is said of it); the embeddings of each label in each template are the second argument.
CLASSIFIERS: dict[str, tuple[str, Callable[[Any, torch.Tensor], Any], str]] = {
    "labels in another order": ("softmax", lambda c, e: _weigh(c, lambda w: w[ORDER]), "labels are in another order: number 1 stands where number 3"),
    "two labels swapped": ("sigmoid", lambda c, e: _weigh(c, lambda w: w[[0, 1, 3, 2]]), "another order: number 3 stands where number 4"),
    "first template alone": ("softmax", lambda c, e: _labelled(c, e[:, 0]), r"knows the template 'a photo of a \{\}.' alone, of 2"),
    "last template alone": ("sigmoid", lambda c, e: _labelled(c, e[:, 1]), r"knows the template '\{\}' alone, of 2"),
    "mean not of unit length": ("softmax", lambda c, e: _labelled(c, e.mean(1)), "mean over the templates is not brought to unit length"),
    "another scale": ("softmax", lambda c, e: _weigh(c, lambda w: w / 3), "logit scale is 10, and the model's is 30"),
    "another scale, sigmoid": ("sigmoid", lambda c, e: _weigh(c, lambda w: w / 3), "logit scale is 10, and the model's is 30"),
    "scale not exponentiated": ("softmax", lambda c, e: _weigh(c, lambda w: w * (np.log(SCALE) / SCALE)), "logit scale is 3.401"),
    "no bias": ("sigmoid", lambda c, e: c.labels.bias.data.zero_(), "the logit bias is missing"),
    "another bias": ("sigmoid", lambda c, e: c.labels.bias.data.fill_(-5), "logit bias is -5, and the model's is -7"),
    "softmax for sigmoid": ("sigmoid", lambda c, e: setattr(c, "kind", "softmax"), "gives the softmax of its logits, and the model is of the kind sigmoid"),
    "no probabilities": ("sigmoid", lambda c, e: setattr(c, "forward", lambda x: c.labels(c.image(x))), "gives logits: the sigmoid is missing"),
    "cosines": ("sigmoid", lambda c, e: setattr(c, "forward", lambda x: (c.labels(c.image(x)) - BIAS) / SCALE), "gives cosines"),
    "rows that are no shares": ("softmax", lambda c, e: setattr(c, "forward", lambda x: c.labels(c.image(x)).softmax(-1) * 0.9), "do not add up to 1"),
    "NaN": ("softmax", lambda c, e: _weigh(c, lambda w: w * float("nan")), "hold NaN"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CLASSIFIERS)
def test_classifiers(fault: str, student: Student, pixels: np.ndarray) -> None:
    kind, plant, named = CLASSIFIERS[fault]
    image, _ = deployable_towers(student)
    each = template_embeddings(student, CLASSES)
    bias = BIAS if kind == "sigmoid" else 0.0
    classifier = Classifier(image, label_embeddings(each), SCALE, bias, kind).eval()
    given = torch.from_numpy(pixels[:6])
    with torch.no_grad():
        eager = student.encode_image(given)

    def check() -> None:
        check_classifier(classifier, given, eager, each, CLASSES.templates, scale=SCALE, bias=bias, kind=kind)

    check()
    with torch.no_grad():
        plant(classifier, each)
    with pytest.raises(DistillError, match=named):
        check()


# What a tower that takes bytes does wrong, and what is said of it.
BYTES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "taken as 0 to 1": (lambda tower: tower.scale.mul_(255), "as if they went from 0 to 1"),
    "divided twice": (lambda tower: tower.scale.div_(255), "divides by 255 twice"),
    "mirrored": (lambda tower: _before(tower, lambda x: x.flip(2 if tower.graph.endswith("NHWC") else 3)), "sees images mirrored"),
    "upside down": (lambda tower: _before(tower, lambda x: x.flip(1 if tower.graph.endswith("NHWC") else 2)), "sees images upside down"),
    "BGR": (lambda tower: _before(tower, lambda x: x.flip(3 if tower.graph.endswith("NHWC") else 1)), "it takes BGR"),
}  # fmt: skip


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("fault", BYTES)
def test_towers_of_bytes(fault: str, layout: Any, student: Student, pixels: np.ndarray) -> None:
    form = Form(4, "uint8", layout)
    tower = deployable_towers(student)[0].taking(form)
    given = torch.from_numpy(form.given(pixels[:4]).copy())
    with torch.no_grad():
        wanted = student.encode_image(torch.from_numpy(pixels[:4])).numpy()
        check_form(tower, given, wanted, "image", pixels[:4])
        plant, named = BYTES[fault]
        plant(tower)
    with pytest.raises(DistillError, match=f"takes uint8 .*{named}"):
        check_form(tower, given, wanted, "image", pixels[:4])


@pytest.mark.parametrize(("made", "declared"), [("NHWC", "NCHW"), ("NCHW", "NHWC")])
def test_a_tower_of_the_other_layout(made: Any, declared: Any, student: Student, pixels: np.ndarray) -> None:
    tower = deployable_towers(student)[0].taking(Form(1, "uint8", made))
    wanted = student.encode_image(torch.from_numpy(pixels[:4])).detach()
    with torch.no_grad():
        said = explain_bytes(tower, torch.from_numpy(pixels[:4]), wanted, declared)
    assert said == f"it takes {made}, and not {declared}"


INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "8-bit pixels": ({"pixels": np.zeros((1, 3, 8, 8), np.uint8)}, r"float32 \[n, 3, S, S\]; these are uint8"),
    "pixels up to 255": (
        {"pixels": np.full((1, 3, 8, 8), 255, np.float32)},
        r"lie in \[0, 1\]; these lie in \[255, 255\]",
    ),
    "channels last": ({"pixels": np.zeros((1, 8, 8, 3), np.float32)}, r"these are float32 \[1, 8, 8, 3\]"),
    "NaN in pixels": ({"pixels": np.full((1, 3, 8, 8), np.nan, np.float32)}, r"lie in \[0, 1\]"),
    "long tokens": ({"tokens": np.zeros((1, L), np.int64)}, r"int32 \[m, L\]; these are int64"),
    "no captions": ({"tokens": np.zeros((0, L), np.int32)}, r"these are int32 \[0, 16\]"),
}


@pytest.mark.parametrize("fault", INPUTS)
def test_inputs(fault: str) -> None:
    given, named = INPUTS[fault]
    sound = {"pixels": np.zeros((1, 3, 8, 8), np.float32), "tokens": np.zeros((1, L), np.int32)}
    with pytest.raises(UsageError, match=named):
        check_inputs(**(sound | given))


def _edit(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return change


def _truncate(folder: Path) -> None:
    (folder / "image.onnx").write_bytes((folder / "image.onnx").read_bytes()[:-100])


def _another(folder: Path) -> None:
    record = json.loads((folder / ARTIFACT_FILE).read_text())
    for row in record:
        row["provenance"]["student_sha256"] = "0" * 64
    (folder / ARTIFACT_FILE).write_text(json.dumps(record))


def _swap(folder: Path) -> None:
    (folder / "image.onnx").rename(folder / "x")
    (folder / "text.onnx").rename(folder / "image.onnx")
    (folder / "x").rename(folder / "text.onnx")


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated file": (_truncate, "image.onnx is missing or not the file that was checked"),
    "edited weight": (_edit("text.onnx"), "text.onnx is missing or not the file that was checked"),
    "towers swapped": (_swap, "image.onnx is missing or not the file"),
    "file gone": (lambda folder: (folder / "text.onnx").unlink(), "text.onnx is missing"),
    "wrong tokenizer": (_edit("merges.txt"), "merges.txt is missing or not the file"),
    "wrong vocabulary": (_edit("vocab.json"), "vocab.json is missing or not the file"),
    "licence gone": (lambda folder: (folder / "LICENSE").unlink(), "LICENSE is missing"),
    "another student's file": (_another, "of another student"),
    "damaged record": (lambda folder: (folder / ARTIFACT_FILE).write_text("[{"), "artifact.json cannot be read"),
    "half a record": (lambda folder: (folder / ARTIFACT_FILE).write_text(json.dumps(json.loads((folder / ARTIFACT_FILE).read_text())[:1])), "a tower is missing"),
    "failed folder": (lambda folder: folder.rename(folder.with_name(folder.name + ".failed-parity")), "failed parity"),
}  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize("fault", FOLDERS)
def test_folders(fault: str, exported: tuple[Path, Any], student_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(exported[0] / "onnx-fp32", tmp_path / "export" / "onnx-fp32")
    (sound,) = examine(tmp_path / "export", student_dir)
    assert (sound.wrong, len(read_artifacts(sound.folder))) == ("", 2)
    plant, named = FOLDERS[fault]
    plant(tmp_path / "export" / "onnx-fp32")
    (found,) = examine(tmp_path / "export", student_dir)
    assert named in found.wrong

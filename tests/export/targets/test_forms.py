"""Files that take bytes, or several inputs at a call: each says what the model says, and a wrong reading of bytes shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from export.app.form import Form, batches
from export.mil.coremltools import import_coremltools
from export.settings import ExportSettings
from export.target import TARGETS, Target, chosen_targets, get_target
from export.towers.faults import check_program
from export.towers.parity import Reference, check_file, run_all
from export.towers.programs import _write_all
from export.towers.tower import ImageTower, check_form, deployable_towers
from students.student import Student


def _target(name: str, **settings: Any) -> Target:
    return get_target(name).configured(ExportSettings(**settings))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_tower_of_bytes_is_the_tower_of_floats(layout: Any, student: Student, pixels: np.ndarray) -> None:
    image, _ = deployable_towers(student)
    form = Form(2, "uint8", layout)
    made = image.taking(form)
    given = torch.from_numpy(form.given(pixels).copy())
    with torch.no_grad():
        torch.testing.assert_close(made(given), image(torch.from_numpy(pixels)), atol=1e-5, rtol=0)
        assert image.graph == "float", "the tower of floats is left as it was"
        wanted = student.encode_image(torch.from_numpy(pixels)).numpy()
    check_program(torch.export.export(made, (given[:2],)), "image", 2, "uint8")
    with pytest.raises(DistillError, match="batch 2, not 1"):
        check_program(torch.export.export(made, (given[:2],)), "image", 1, "uint8")
    with pytest.raises(DistillError, match=r"input is torch\.uint8, not torch\.float32"):
        check_program(torch.export.export(made, (given[:2],)), "image", 2)
    check_form(made, given[:2], wanted[:2], "image")
    made.scale.mul_(255)  # bytes taken as if they went from 0 to 1
    with pytest.raises(DistillError, match=r"image that takes uint8 \[2, .*differs from the model"):
        check_form(made, given[:2], wanted[:2], "image")


@pytest.mark.parametrize(  # Core ML's pictures: tests/export/targets/test_coreml_options.py
    ("name", "chosen"),
    [
        ("onnx-w8a8", {"input": "uint8", "batch": 3}),
        ("executorch-xnnpack", {"input": "uint8", "batch": 3}),
        ("coreml", {"batch": 3}),
    ],
)
@pytest.mark.process
def test_files(name: str, chosen: dict[str, Any], pixels: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 16, 16), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(32, 16)
    image = ImageTower(
        torch.nn.Sequential(*layers), torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    ).eval()
    target = _target(name, **chosen)
    form = target.form
    assert (form.batch, form.pixels) == (chosen.get("batch", 1), chosen.get("input", "float"))
    inside = form.given(next(batches(pixels, form.batch))) if form.graph != "float" else pixels[: form.batch]
    program = torch.export.export(image.taking(form), (torch.from_numpy(inside.copy()),))
    path = tmp_path / f"image{target.suffix}"
    target.convert(program, "image", path, calibration=form.given(pixels) if target.precision.calibrated else None)
    found = run_all(target.load(path), pixels[:5], form=form)
    with torch.no_grad():
        wanted = image(torch.from_numpy(pixels[:5])).numpy()
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1)
    assert cosine.min() > {"exact": 0.999999, "half": 0.9999, "quantized": 0.98}[target.precision.closeness]


@pytest.mark.process
def test_a_core_ml_file_of_several_batches(
    student: Student, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    """The package names each shape, and each says what the model says; a shape that is wrong alone fails its parity."""
    target = _target("coreml", coreml={"batches": [2, 1]})
    assert [form.batch for form in target.form.each] == [1, 2]
    towers = dict(zip(("image", "text"), deployable_towers(student), strict=True))
    with torch.no_grad():
        said = [student.encode_image(torch.from_numpy(pixels)), student.encode_text(torch.from_numpy(tokens).long())]
    reference = Reference(pixels, tokens, *(value.numpy() for value in said))
    made = _write_all(towers, reference, [target.form], tmp_path)["float-any"]
    assert set(made) == {"image", "text"}  # both are graphs of any batch
    path = tmp_path / "image.mlpackage"
    target.convert(torch.export.load(made["image"]), "image", path)
    spec = import_coremltools().models.MLModel(str(path), skip_model_load=True).get_spec()
    shapes = spec.description.input[0].type.multiArrayType.enumeratedShapes.shapes
    assert [list(shape.shape) for shape in shapes] == [[1, 3, 32, 32], [2, 3, 32, 32]]
    report = check_file(target, path, "image", reference)
    assert report.cosine_min is not None
    assert report.cosine_min > 0.9999
    run = target.load(path)
    target.load = lambda *_: lambda value: run(value) if len(value) == 1 else -run(value)  # type: ignore[assignment]
    assert check_file(target, path, "image", reference).cosine_min < 0  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"goes with floats alone, and not with export\.batch"):
        _target("coreml", batch=2, coreml={"batches": [1, 4]})
    with pytest.raises(UsageError, match="a call takes one picture"):
        _target("coreml", input="uint8", coreml={"batches": [1, 4]})
    assert _target("coreml", coreml={"batches": [4]}).form == Form(4)
    assert _target("onnx", coreml={"batches": [1, 4]}).form == Form()


def test_what_a_target_cannot_take_is_refused_with_the_reason() -> None:
    with pytest.raises(
        UsageError, match=r"executorch-coreml-fp16 cannot take pixels as bytes \(export.input\): Core ML has no"
    ):
        _target("executorch-coreml", input="uint8")
    with pytest.raises(UsageError, match="coreml takes a picture at a call, not 4"):
        _target("coreml", input="uint8", batch=4)
    with pytest.raises(UsageError, match="onnx-qnn-w8a16 cannot take pixels as bytes"):
        _target("onnx-qnn-w8a16", input="uint8")
    assert _target("onnx-qnn-fp16", input="uint8").form == Form(1, "uint8")
    assert _target("litert", input="uint8", batch=2).form == Form(2, "uint8", "NHWC")
    for target in chosen_targets(name for name, _ in TARGETS.items()):
        assert target.configured(ExportSettings()) is target
        assert target.configured(ExportSettings(batch=2)).form == Form(2)

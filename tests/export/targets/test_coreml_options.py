"""Core ML files for older systems, and with a picture as input: what the package declares, and that it says the same."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.app.licence import Notice
from export.artifacts.folder import hash_path, size_of
from export.mil.coremltools import import_coremltools
from export.settings import ExportSettings
from export.target import get_target
from export.towers.classifier import Classifier
from export.towers.parity import run_all
from export.towers.tower import deployable_towers
from students.student import Student


def _settings(**chosen: Any) -> ExportSettings:
    """`input` is of all targets, the rest of Core ML's."""
    own = {name: value for name, value in chosen.items() if name != "input"}
    return ExportSettings.model_validate({"coreml": own, "input": chosen.get("input", "float")})


def test_what_the_record_says() -> None:
    plain = get_target("coreml").configured(_settings())
    assert plain.options == {}  # so that exports made before answer the same request
    assert "iOS 17, macOS 14" in plain.runs_on
    older = get_target("coreml").configured(_settings(minimum_ios=16, input="uint8"))
    assert "iOS 16, macOS 13" in older.runs_on
    assert "iOS 18, macOS 15" in get_target("coreml-p4").configured(_settings(minimum_ios=16)).runs_on
    assert older.form.describe((9, 3, 8, 8)).startswith("image[1,3,8,8] a picture of 8-bit RGB")
    assert older.form.describe((9, 16)).startswith("int32[1,16] token ids")
    assert get_target("onnx").configured(_settings(minimum_ios=16)).options == {}


@pytest.mark.process
@pytest.mark.parametrize(("ios", "version"), [(16, 7), (18, 9)])
def test_a_picture_as_input(ios: int, version: int, student: Student, pixels: np.ndarray, tmp_path: Path) -> None:
    ct = import_coremltools()
    image, _ = deployable_towers(student)
    target = get_target("coreml").configured(_settings(minimum_ios=ios, input="uint8"))
    path = tmp_path / "image.mlpackage"
    target.convert(torch.export.export(image, (torch.from_numpy(pixels[:1]),)), "image", path)
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    (given,) = spec.description.input
    assert spec.specificationVersion == version
    assert (given.type.imageType.width, given.type.imageType.height) == (32, 32)
    assert given.type.imageType.colorSpace == ct.proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace.RGB
    eight_bits = np.round(pixels * 255) / 255
    wanted = image(torch.from_numpy(eight_bits)).numpy()
    found = run_all(target.load(path), pixels, form=target.form)
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1)  # fp16's length is one to three digits
    assert cosine.min() > 0.9999
    swapped = run_all(target.load(path), np.ascontiguousarray(pixels[:, ::-1]), form=target.form)
    assert (swapped * wanted).sum(1).min() < 0.99


@pytest.mark.process
def test_all_towers_as_functions_of_one_package(
    exported: tuple[Path, Any], student: Student, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    """Each function says what its tower says, the classifier carries no second image tower, and bytes are equal twice."""
    ct = import_coremltools()
    image, text = deployable_towers(student)
    labels = torch.nn.functional.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    towers: dict[Any, tuple[Any, np.ndarray]] = {
        "image": (image, pixels), "text": (text, tokens),
        "classifier": (Classifier(image, labels, 20.0, 0.0, "softmax").eval(), pixels),
    }  # fmt: skip
    target = get_target("coreml").configured(_settings(multifunction=True))
    assert "iOS 18, macOS 15" in target.runs_on
    assert {target.file_of(tower) for tower in towers} == {"towers.mlpackage"}
    sizes, digests = {}, []
    (tmp_path / "parts").mkdir()
    for tower, (module, inputs) in towers.items():
        path = tmp_path / "parts" / f"{tower}.mlpackage"
        if tower == "classifier":
            target.convert(torch.export.export(module, (torch.from_numpy(inputs[:1]),)), tower, path)
        else:
            shutil.copytree(exported[0] / "coreml-fp16" / path.name, path)
        sizes[tower] = size_of(path)
    for name in ("one", "two"):
        folder = tmp_path / name
        shutil.copytree(tmp_path / "parts", folder)
        target.combine(folder, towers)
        target.sign(folder / "towers.mlpackage", "image", Notice("MIT", "tiny"))
        assert [path.name for path in folder.iterdir()] == ["towers.mlpackage"]
        digests.append(hash_path(folder / "towers.mlpackage"))
    assert digests[0] == digests[1]
    assert size_of(folder / "towers.mlpackage") < sizes["image"] + sizes["text"] + 0.5 * sizes["classifier"]
    spec = ct.models.MLModel(str(folder / "towers.mlpackage"), skip_model_load=True).get_spec()
    assert [function.name for function in spec.description.functions] == list(towers)
    assert (spec.specificationVersion, spec.description.metadata.license) == (9, "MIT")
    for tower, (module, inputs) in towers.items():
        with torch.no_grad():
            wanted = module(torch.from_numpy(inputs)).numpy()
        found = run_all(target.of(tower).load(folder / target.file_of(tower)), inputs)
        np.testing.assert_allclose(found, wanted, atol=0.01)
        assert np.abs(wanted - wanted.mean(0)).max() > 0.05

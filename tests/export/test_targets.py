"""Every registered target: its facts, its weightless import, and that a damaged file does not pass the check."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import UsageError
from export.artifacts.precision import PRECISIONS
from export.target import ALIASES, TARGETS, chosen_targets, get_target
from export.targets.parts.npu import NeedsSdk
from export.towers.parity import Reference, check_file
from students.student import Student


@pytest.mark.parametrize("name", TARGETS)
def test_facts(name: str) -> None:
    target = get_target(name)
    assert target.name == name
    assert target.precision is PRECISIONS[target.precisions[0]]
    assert target.int8 is None or target.int8 in target.precisions
    assert target.folder == f"{name}-{target.precision.name}"
    for precision in target.precisions:
        other = target.at(precision)
        assert other.folder == get_target(other.folder).folder == f"{name}-{precision}"
    assert get_target(name).precision is PRECISIONS[target.precisions[0]]  # the registered one is as it was
    assert target.suffix.startswith(".")
    assert target.checked_by
    assert target.runtime
    assert target.missing() is None or target.environment is not None or isinstance(target, NeedsSdk)


def test_names() -> None:
    assert set(TARGETS) >= {"coreml", "executorch-xnnpack", "onnx"}
    assert get_target("executorch").name == "executorch-xnnpack"
    assert all(name in TARGETS for name in ALIASES.values())
    with pytest.raises(UsageError, match="coreml"):
        get_target("coremlx")


def test_a_precision_stands_behind_the_name_or_apart() -> None:
    assert get_target("executorch-fp32").folder == get_target("xnnpack", "fp32").folder == "executorch-xnnpack-fp32"
    with pytest.raises(UsageError, match="'coreml' has no precision 'w8a16'; it has: fp16"):
        get_target("coreml-w8a16")
    with pytest.raises(UsageError, match="no precision 'fp99'"):
        get_target("coreml", "fp99")
    names = ("coreml", "xnnpack", "executorch-xnnpack-fp32", "coreml-fp16")
    assert [t.folder for t in chosen_targets(names)] == ["coreml-fp16", "executorch-xnnpack-fp32"]
    assert [t.folder for t in chosen_targets(("coreml-fp16", "onnx"), ("fp32",))] == ["coreml-fp16", "onnx-fp32"]
    with pytest.raises(UsageError, match="'coreml' has no precision 'w8a16'"):
        chosen_targets(("coreml", "onnx"), ("w8a16",))


def test_missing_packages_give_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(get_target("onnx")), "requires", {"json": "json", "no_such_package_here": "nspkg>=2"})
    assert get_target("onnx").missing() == "pip install 'nspkg>=2'"


@pytest.mark.process
def test_the_registry_is_light(run_python: Callable[[str], str]) -> None:
    code = "import sys; from export.target import TARGETS; list(TARGETS); print(*sorted(sys.modules))"
    loaded = set(run_python(code).split())
    assert not loaded & {"torch", "numpy", "coremltools", "onnx", "onnxruntime", "executorch", "timm", "open_clip"}


@pytest.fixture(scope="module")
def reference(student: Student, pixels: np.ndarray, tokens: np.ndarray) -> Reference:
    with torch.no_grad():
        image = student.encode_image(torch.from_numpy(pixels)).numpy()
        text = student.encode_text(torch.from_numpy(tokens).long()).numpy()
    return Reference(pixels, tokens, image, text)


@pytest.mark.process
def test_an_edited_core_ml_weight_file_fails(exported: tuple[Path, Any], reference: Reference, tmp_path: Path) -> None:
    target = get_target("coreml")
    copy = tmp_path / "image.mlpackage"
    shutil.copytree(exported[0] / target.folder / "image.mlpackage", copy)
    sound = check_file(target, copy, "image", reference)
    assert sound.cosine_min is not None
    assert sound.cosine_min > 0.9999
    (weights,) = copy.rglob("weight.bin")
    data = bytearray(weights.read_bytes())
    # Flip the sign of every fp16 number in the first 4 KiB after the file's header and first blob's header.
    for index in range(129, 129 + 4096, 2):
        data[index] ^= 0x80
    weights.write_bytes(data)
    damaged = check_file(target, copy, "image", reference)
    assert damaged.cosine_min is not None
    assert damaged.cosine_min < 0.95


@pytest.mark.process
def test_an_edited_onnx_weight_fails(exported: tuple[Path, Any], reference: Reference, tmp_path: Path) -> None:
    import onnx

    target = get_target("onnx")
    model = onnx.load(exported[0] / target.folder / "image.onnx")
    largest = max((i for i in model.graph.initializer if len(i.dims) == 4), key=lambda i: len(i.raw_data))
    largest.raw_data = (-np.frombuffer(largest.raw_data, np.float32)).tobytes()
    onnx.save(model, tmp_path / "image.onnx")
    damaged = check_file(target, tmp_path / "image.onnx", "image", reference)
    assert damaged.cosine_min is not None
    assert damaged.cosine_min < 0.95


@pytest.mark.process
def test_onnx_opset_and_names(exported: tuple[Path, Any]) -> None:
    import onnx

    model = onnx.load(exported[0] / "onnx-fp32" / "text.onnx")
    onnx.checker.check_model(model)
    assert model.opset_import[0].version >= 18
    # ONNX's own table: opset 20 came with IR version 9, in release 1.15; ONNX Runtime reads both from 1.17 on.
    released = [row for row in onnx.helper.VERSION_TABLE if row[2] == model.opset_import[0].version]
    assert model.ir_version == min(row[1] for row in released)
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("tokens", onnx.TensorProto.INT32)
    assert made.name == "text_embedding"
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, 16]
    # No paths of the machine that made it.
    root = str(Path(__file__).resolve().parents[2]).encode()
    for name in ("image.onnx", "text.onnx"):
        assert root not in (exported[0] / "onnx-fp32" / name).read_bytes()


@pytest.mark.process
def test_the_terms_are_in_the_files_and_beside_them(exported: tuple[Path, Any]) -> None:
    import onnx

    from export.mil.coremltools import import_coremltools

    out, artifacts = exported
    for artifact in artifacts:
        folder = out / f"{artifact.target}-{artifact.precision}"
        text = (folder / "LICENSE").read_text()
        assert "Licence: Apache-2.0\n" in text
        assert "student tiny, distilled from big, bigger" in text
        assert artifact.provenance["export_request"] in text
    metadata = import_coremltools().models.MLModel(str(out / "coreml-fp16" / "text.mlpackage"), skip_model_load=True)
    assert metadata.license == "Apache-2.0"
    assert metadata.author == "student tiny, distilled from big, bigger"
    assert metadata.short_description == "The text tower of student tiny, distilled from big, bigger."
    inside = {item.key: item.value for item in onnx.load(out / "onnx-fp32" / "image.onnx").metadata_props}
    assert inside == {
        "license": "Apache-2.0",
        "author": "student tiny, distilled from big, bigger",
        "description": "The image tower of student tiny, distilled from big, bigger.",
    }


@pytest.mark.process
def test_core_ml_package(exported: tuple[Path, Any]) -> None:
    from export.mil.coremltools import import_coremltools

    ct = import_coremltools()
    for tower, shape in (("image", [1, 3, 32, 32]), ("text", [1, 16])):
        path = exported[0] / "coreml-fp16" / f"{tower}.mlpackage"
        assert {p.name for p in path.iterdir()} == {"Manifest.json", "Data"}
        spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
        assert spec.specificationVersion == 8  # iOS 17
        (given,), (made,) = spec.description.input, spec.description.output
        assert list(given.type.multiArrayType.shape) == shape
        kinds = ct.proto.FeatureTypes_pb2.ArrayFeatureType
        assert given.type.multiArrayType.dataType == {"image": kinds.FLOAT32, "text": kinds.INT32}[tower]
        assert made.type.multiArrayType.dataType == kinds.FLOAT32
        assert made.name == f"{tower}_embedding"


@pytest.mark.process
def test_executorch_is_mostly_delegated(exported: tuple[Path, Any]) -> None:
    """XNNPACK takes all but pooling and the L2 norm; idle expands would cut every attention twice more, each LayerNorm once."""
    data = (exported[0] / "executorch-xnnpack-fp32" / "image.pte").read_bytes()
    assert b"aten::expand_copy" not in data
    assert b"aten::native_layer_norm" not in data
    assert b"aten::amax" in data  # of the L2 norm: what is left is listed by its name
    assert b"XnnpackBackend" in data
    for op in (b"aten::bmm", b"aten::convolution", b"aten::addmm", b"aten::linear", b"aten::gelu", b"aten::_softmax"):
        assert op not in data

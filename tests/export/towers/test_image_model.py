"""timm models alone: prepared as timm prepares, saying what timm says, exported and read back without a text tower."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import distill
from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.core.torch_compat import ensure_torchvision
from distill.evaluation.evalset import pixels as prepared
from distill.run_folder import RunFolder
from distill.stages.exporting.any_model import default_out, run_of, take_in
from export.artifacts.folder import examine, read_artifacts
from export.target import get_target
from export.towers.image_model import deployable_image_model, is_image_model, load_image_model
from export.towers.parity import compare

ensure_torchvision()  # before anything imports timm
import timm  # noqa: E402
from timm.data import create_transform, resolve_data_config  # noqa: E402
from timm.models import save_for_hf  # noqa: E402


def _write(folder: Path, *, classes: int, size: int = 64, **config: Any) -> torch.nn.Module:
    """timm's smallest EfficientNet with lively weights, in timm's own form."""
    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet", pretrained=False, num_classes=classes).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(8, 3, 3, 3).repeat_interleave(22, 2).repeat_interleave(22, 3)[..., :64, :64])
        if classes:
            net.classifier.weight.mul_(8)
    cfg = {
        "input_size": (3, size, size),
        "crop_pct": 0.8,
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
    } | config.pop("cfg", {})
    save_for_hf(
        net.eval(),
        folder,
        model_config={"pretrained_cfg": {**cfg, "license": "mit"}, **config},
        safe_serialization=True,
    )
    return net


def _photo(seed: int, size: tuple[int, int]) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("cfg", [{}, {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}])
@pytest.mark.parametrize("classes", [0, 7])
def test_photos_are_prepared_and_answered_as_by_timm(classes: int, cfg: dict[str, Any], tmp_path: Path) -> None:
    net = _write(tmp_path, classes=classes, cfg=cfg)
    model = load_image_model(tmp_path)
    photos = [_photo(seed, size) for seed, size in enumerate([(90, 120), (200, 70), (64, 64)])]
    mine = prepared(
        [(str(i), photo) for i, photo in enumerate(photos)],
        model.image_size, model.resize_mode, model.interpolation, model.resize_to,
    )  # fmt: skip
    theirs_of = create_transform(
        **resolve_data_config(pretrained_cfg=json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"])
    )
    theirs = torch.stack([theirs_of(Image.open(io.BytesIO(photo))) for photo in photos])
    torch.testing.assert_close((torch.from_numpy(mine) - model.mean) / model.std, theirs, atol=1e-5, rtol=0)
    with torch.no_grad():
        wanted = net(theirs).softmax(-1) if classes else torch.nn.functional.normalize(net(theirs), dim=-1)
        found = deployable_image_model(model)(torch.from_numpy(mine))
    assert float(wanted.std(0).max()) > 0.01
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    assert model.towers == (("classifier",) if classes else ("image",))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"cfg": {"crop_mode": "border"}}, "crop_mode 'border'"),
        ({"cfg": {"interpolation": "lanczos"}}, "resized for it by 'lanczos'"),
        ({"label_names": ["a", "b"]}, "names 2 labels, its classifier has 7"),
    ],
)
def test_what_cannot_be_prepared_or_named_is_refused(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    _write(tmp_path, classes=7, **config)
    with pytest.raises(DistillError, match=named):
        load_image_model(tmp_path)


def test_names_that_are_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "out")
    (tmp_path / "w.safetensors").write_bytes(b"")
    for model, named in {
        "timm:test_efficientnet": "names no timm model: give timm:NAME@WEIGHTS",
        f"timm:no_such_net@{tmp_path / 'w.safetensors'}": "timm has no model 'no_such_net'",
        f"timm:test_efficientnet@{tmp_path / 'gone.safetensors'}": "there is no .*gone.safetensors",
    }.items():
        with pytest.raises(DistillError, match=named):
            take_in(model, run, overwrite=False)
    assert not run.student.exists()
    assert default_out("timm:test_efficientnet@/a/w.safetensors") == Path("exports/test_efficientnet-w")
    assert default_out(f"timm:{tmp_path}") == Path("exports") / tmp_path.name


def test_weights_by_name_are_taken_in_once(tmp_path: Path) -> None:
    """A file of weights says how many classes there are; another one is not laid over it unasked."""
    for classes in (7, 0):
        net = timm.create_model("test_efficientnet", pretrained=False, num_classes=classes)
        save_file(net.state_dict(), tmp_path / f"{classes}.safetensors")
        run = RunFolder(tmp_path / f"out-{classes}")
        take_in(f"timm:test_efficientnet@{tmp_path / f'{classes}.safetensors'}", run, overwrite=False)
        assert is_image_model(run.student)
        assert load_image_model(run.student).classes == classes
        assert (found := run_of(str(run))) is not None
        assert found.path == run.path
    with pytest.raises(OutputExistsError, match="exports of another model"):
        take_in(f"timm:test_efficientnet@{tmp_path / '7.safetensors'}", run, overwrite=False)


def test_neighbours_are_other_inputs_where_there_is_no_other_tower() -> None:
    eager = np.array([[1, 0], [0.98, 0.2], [0, 1], [0.2, 0.98]]) / 1.0
    eager /= np.linalg.norm(eager, axis=1, keepdims=True)
    moved = eager.copy()
    moved[1] = [0.6, 0.8]
    assert compare(eager, eager, eager[:0], "").top1_agreement == 1.0
    assert compare(moved, eager, eager[:0], "").top1_agreement == pytest.approx(0.75)


@pytest.mark.process
def test_an_export(tmp_path: Path) -> None:
    """By the verb: record, labels and golden samples of a model with one tower; labels and auto are refused with the reason."""
    _write(tmp_path / "net", classes=5, label_names=list("abcde"))
    call: dict[str, Any] = {"data": "rendered", "out": tmp_path / "out", "settings": {"export.parity_samples": 6}}
    result = distill.export(f"timm:{tmp_path / 'net'}", target="onnx", **call)
    folder = result.out / "onnx-fp32"
    (record,) = read_artifacts(folder)
    assert (record.tower, record.towers, record.licence) == ("classifier", ("classifier",), "mit")
    assert record.preprocess["shorter_side"] == 80
    assert (record.logit_scale, record.tokenizer) == (None, {})
    assert (folder / "labels.txt").read_text().split() == list("abcde")
    assert [found.wrong for found in examine(result.out, tmp_path / "out" / "student")] == [""]
    from safetensors.numpy import load_file

    golden = load_file(folder / "golden.safetensors")
    assert set(golden) == {"pixels", "label_probabilities"}
    model, run = load_image_model(tmp_path / "net"), get_target("onnx").load(folder / "classifier.onnx")
    with torch.no_grad():
        wanted = model.probabilities(torch.from_numpy(golden["pixels"])).numpy()
    np.testing.assert_allclose(golden["label_probabilities"], wanted, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([run(row[None]) for row in golden["pixels"]]), wanted, atol=2e-5)
    (tmp_path / "labels.txt").write_text("cat\n")
    for wrong, named in (
        ({"classes": tmp_path / "labels.txt"}, "no text tower, which labels"),
        ({"precision": "auto"}, "no text tower. Name"),
    ):
        with pytest.raises(UsageError, match=named):
            distill.export(tmp_path / "out", target="onnx", data="rendered", **wrong)
    with pytest.raises(UsageError, match="is not judged: it has no text tower"):
        distill.eval(folder)

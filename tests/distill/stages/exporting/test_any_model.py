"""A model from elsewhere becomes a student folder that computes what open_clip computes with the same weights."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distill.core.atomic import PARTIAL
from distill.core.clip.model import import_open_clip
from distill.core.errors import OutputExistsError, UsageError
from distill.run_folder import RunFolder
from distill.stages.exporting.any_model import default_out, model_name, run_of, take_in
from students.student import load_student
from tests import forks
from tests.command_line import distill

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny open_clip model, known by the name tiny-here: a folder as the Hub has it, and a checkpoint of a training run."""
    open_clip = import_open_clip()
    root = tmp_path_factory.mktemp("elsewhere")
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    cfg = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision,
           "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}}  # fmt: skip
    (root / "tiny-here.json").write_text(json.dumps(cfg))
    open_clip.add_model_config(root / "tiny-here.json")
    torch.manual_seed(3)
    state = open_clip.model.CLIP(**cfg).state_dict()
    folder = root / "from-the-hub"
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, root / "epoch_3.pt")
    return root


FORMS = {
    "folder": "{root}/from-the-hub",
    "local-dir": "local-dir:{root}/from-the-hub",
    "checkpoint": "open_clip:tiny-here@{root}/epoch_3.pt",
}


@pytest.mark.parametrize("form", FORMS)
def test_it_computes_what_open_clip_computes(form: str, elsewhere: Path, tmp_path: Path) -> None:
    take_in(model_name(FORMS[form].format(root=elsewhere)), RunFolder(tmp_path), overwrite=False)
    student = load_student(tmp_path / "student")
    open_clip: Any = import_open_clip()
    if form == "checkpoint":
        theirs, _, prepare = open_clip.create_model_and_transforms(
            "tiny-here", pretrained=str(elsewhere / "epoch_3.pt"), weights_only=True
        )
    else:
        theirs, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{elsewhere / 'from-the-hub'}")
        assert (student.spec.interpolation, student.spec.resize_mode) == ("bilinear", "squash")
    theirs.eval()
    normalise = prepare.transforms[-1]
    pixels, tokens = torch.rand(2, 3, 32, 32), student.tokenize(["a cat", "two dogs"])
    assert torch.equal(tokens, open_clip.tokenize(["a cat", "two dogs"], context_length=12))
    with torch.no_grad():
        assert torch.allclose(
            student.encode_image(pixels), theirs.encode_image(normalise(pixels), normalize=True), atol=1e-6
        )
        assert torch.allclose(student.encode_text(tokens), theirs.encode_text(tokens, normalize=True), atol=1e-6)
        assert torch.allclose(student.logit_scale, theirs.logit_scale.exp())
    # The folder is open_clip's own again.
    again, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'student'}")
    assert torch.equal(again.encode_text(tokens), theirs.encode_text(tokens))


def test_another_model_is_not_put_in_its_place_unasked(elsewhere: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    take_in(str(elsewhere / "from-the-hub"), run, overwrite=False)
    made = (run.student / "model.safetensors").stat().st_mtime_ns
    take_in(str(elsewhere / "from-the-hub"), run, overwrite=False)
    assert (run.student / "model.safetensors").stat().st_mtime_ns == made  # there already
    with pytest.raises(OutputExistsError, match="exports of another model"):
        take_in("rendered", run, overwrite=False)
    take_in("rendered", run, overwrite=True)
    assert json.loads((run.student / "card.json").read_text())["origin"] == "rendered"


def test_a_registered_teacher_keeps_its_terms_and_its_cut_vocabulary(tmp_path: Path) -> None:
    from teachers.load import load_teacher

    take_in("rendered", RunFolder(tmp_path), overwrite=False)
    teacher, student = load_teacher("rendered"), load_student(tmp_path / "student")
    card = json.loads((tmp_path / "student" / "card.json").read_text())
    assert (card["licence"], card["weights_sha256"]) == (teacher.spec.licence, teacher.weights_sha256)
    captions = ["a red circle above a blue square"]
    with torch.no_grad():
        assert torch.allclose(student.encode_text(student.tokenize(captions)), teacher.encode_text(captions), atol=1e-6)
    assert float(student.logit_scale.detach()) == pytest.approx(teacher.logit_scale, rel=1e-6)


def test_which_run_is_meant(elsewhere: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    take_in(str(elsewhere / "from-the-hub"), run, overwrite=False)
    for name in (tmp_path / "run", tmp_path / "run" / "student"):
        found = run_of(str(name))
        assert found is not None
        assert found.path == tmp_path / "run"
    assert run_of(str(elsewhere / "from-the-hub")) is None
    assert run_of("dfn-vitl14") is None
    with pytest.raises(UsageError, match="Unknown model 'no-such'"):
        take_in("no-such", RunFolder(tmp_path / "other"), overwrite=False)


@pytest.mark.process
def test_any_folder_is_exported_and_judged(elsewhere: Path, tmp_path: Path) -> None:
    """Photos without captions will do for the images; what was borrowed instead is said."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, colour in enumerate(np.random.default_rng(0).integers(0, 255, (4, 3))):
        Image.new("RGB", (40, 30), tuple(map(int, colour))).save(photos / f"{index}.png")
    (photos / "LICENSE").write_text("Photos' own terms")
    clip = elsewhere / "from-the-hub"
    made = distill("export", clip, "--target", "onnx", "--data", photos, "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "has no captions" in made.stderr
    result = json.loads(made.stdout)
    assert result["out"] == str(Path("exports", "from-the-hub", "export"))
    towers = {row["tower"]: row for row in result["artifacts"]}
    assert towers["image"]["parity"]["samples"] == 4
    assert towers["image"]["preprocess"]["resize_mode"] == "squash"
    assert towers["image"]["provenance"]["origin"] == str(clip)
    assert (
        towers["image"]["provenance"]["samples"]
        == "photos: Photos' own terms; rendered: Apache-2.0 (made by this package)"
    )
    # Killed in the middle and continued by its folder alone, from where its words mean nothing: the same files.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        words = (os.path.relpath(clip), "--target", "onnx", "--data", "photos", "--out", "killed")
        process = forks.start("export", *words, log=tmp_path / "log")
    forks.kill_when(process, lambda: any((tmp_path / "killed" / "export").glob(f"{PARTIAL}work/*")))
    assert not list(tmp_path.glob("killed/export/*/artifact.json"))
    resumed = distill("export", tmp_path / "killed", "--resume", "--json", cwd=elsewhere)
    assert resumed.returncode == 0, resumed.stderr
    hashes = [{row["file"]: row["sha256"] for row in json.loads(done.stdout)["artifacts"]} for done in (made, resumed)]
    assert hashes[0] == hashes[1]
    again = distill("export", "exports/from-the-hub", "--target", "onnx", "--data", photos, cwd=tmp_path)
    assert "onnx-fp32: there already, unchanged" in again.stderr, again.stderr
    judged = [
        json.loads(distill("eval", place, "--set", "eval.limit=8", "--json", cwd=tmp_path).stdout)
        for place in (clip, "exports/from-the-hub", "exports/from-the-hub/export/onnx-fp32")
    ]
    assert judged[0]["retrieval"] == judged[1]["retrieval"] == judged[2]["retrieval"]
    # The folder alone will do, under another name; an edited file will not.
    phone = tmp_path / "phone"
    shutil.copytree(tmp_path / "exports/from-the-hub/export/onnx-fp32", phone)
    alone = distill("eval", phone, "--set", "eval.limit=8", "--json", cwd=tmp_path)
    assert json.loads(alone.stdout)["retrieval"] == judged[0]["retrieval"]
    with open(phone / "image.onnx", "ab") as file:
        file.write(b"x")
    refused = distill("eval", phone, "--set", "eval.limit=8", cwd=tmp_path)
    assert refused.returncode == 2
    assert "image.onnx is missing or not the file that was checked" in refused.stderr


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("dfn-vitl14", "dfn-vitl14"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "ViT-B-32-laion2b_s34b_b79k"),
        ("open_clip:MobileCLIP2-S0@/tmp/some where/mobileclip2_s0.pt", "MobileCLIP2-S0-mobileclip2_s0"),
    ],
)
def test_names_of_exports(model: str, name: str) -> None:
    assert default_out(model) == Path("exports") / name

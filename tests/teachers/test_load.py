"""Names to specs: registered, open_clip, paths, and near misses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.core.errors import DistillError, UsageError
from teachers.load import OF_A_RUN, absolute_teacher, load_teacher, resolve_teacher
from teachers.spec import TEACHERS, TeacherSpec
from teachers.teacher import TEACHER_LOADERS, TeacherLoader


def test_registered_names_resolve_to_themselves() -> None:
    for name, spec in TEACHERS.items():
        assert resolve_teacher(name) is spec
        assert spec.loader in TEACHER_LOADERS


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("dfn-vitl-14", "dfn-vitl14"),
        ("siglip-b-16", "siglip-b16"),
        ("open_clip:ViT-L-15/openai", "ViT-L-14"),
        ("open_clip:ViT-L-14/openia", "openai"),
        ("open_clip:ViT-L-14", "open_clip:MODEL/TAG"),
        ("open_clip:ViT-L-14@nowhere.safetensors", "nowhere.safetensors"),
        ("./no/such/folder", "no file or folder"),
        ("", "open_clip:MODEL/TAG"),
    ],
)
def test_near_misses_are_named(wrong: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_teacher(wrong)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_open_clip_names_need_no_registry_entry(open_clip: Any) -> None:
    spec = resolve_teacher("open_clip:ViT-L-16-SigLIP-384/webli")
    assert (spec.hub, spec.file) == ("timm/ViT-L-16-SigLIP-384", "open_clip_model.safetensors")
    assert (spec.width, spec.image_size, spec.kind) == (1024, 384, "sigmoid")
    assert not spec.commercial  # nobody said that it may be used so
    assert "huggingface.co/timm/ViT-L-16-SigLIP-384" in spec.licence


def test_open_clip_names_of_known_weights_carry_their_facts(open_clip: Any) -> None:
    spec = resolve_teacher("open_clip:ViT-L-14-quickgelu/dfn2b")
    known = TEACHERS.get("dfn-vitl14")
    assert spec.name == "open_clip:ViT-L-14-quickgelu/dfn2b"
    assert (spec.logit_scale, spec.licence, spec.hub) == (known.logit_scale, known.licence, known.hub)


def test_a_bare_checkpoint_asks_for_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="open_clip:MODEL@"):
        resolve_teacher(str(tmp_path / "model.safetensors"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no teacher"):
        resolve_teacher(str(tmp_path))


def test_heads_that_nobody_trained_say_how_to_train_them() -> None:
    with pytest.raises(DistillError) as caught:
        load_teacher("sail-lite0-minilm")
    for part in (
        "distill train --recipe sail-lite0-minilm --data FOLDER --out runs/sail",
        "--teacher runs/sail/teacher",
    ):
        assert part in str(caught.value)


def test_the_embedded_teacher_loads_or_says_that_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(TEACHERS.get("rendered"), source="package:weights/never")
    with pytest.raises(DistillError, match="not in this installation"):
        load_teacher(absent)
    spec = TEACHERS.get("rendered")
    if not spec.width:
        pytest.skip("teachers/weights/rendered is not there yet")
    teacher = load_teacher("rendered")
    assert teacher.spec.name == "rendered"
    assert teacher.encode_text(["a red square"]).shape == (1, spec.width)


def test_a_loader_from_elsewhere_brings_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TeacherSpec("x", "lab", "inside", 4, 8, None, "softmax", "MIT", True)
    loaded: Any = object()
    loader = TeacherLoader(
        lambda given, random_weights, seed: loaded,
        spec_of_name=lambda name, source: replace(spec, name=name, source=source),
        spec_of_folder=lambda path: replace(spec, source=str(path)) if (path / "lab.bin").exists() else None,
        holds="lab.bin (a lab's own)",
    )
    with pytest.raises(UsageError, match="Unknown teacher 'lab:one'"):
        resolve_teacher("lab:one")
    monkeypatch.setitem(TEACHER_LOADERS._entries, "lab", loader)
    assert (resolve_teacher("lab:one").name, resolve_teacher("lab:one").source) == ("lab:one", "one")
    with pytest.raises(UsageError, match=r"lab\.bin \(a lab's own\)"):
        resolve_teacher(str(tmp_path))
    (tmp_path / "lab.bin").touch()
    assert resolve_teacher(str(tmp_path)).source == str(tmp_path)
    assert load_teacher("lab:one") is loaded


def test_an_unknown_loader_is_named() -> None:
    with pytest.raises(UsageError, match=r"Unknown loader of teachers 'open_clap'\. Did you mean 'open_clip'"):
        load_teacher(TeacherSpec("x", "open_clap", "", 4, 8, None, "softmax", "MIT", True))


@pytest.mark.parametrize("inside", OF_A_RUN)
def test_a_run_stands_for_the_model_that_it_has_trained(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    import shutil

    from distill.run_folder import RunFolder

    run = RunFolder(tmp_path / "run")
    assert {path.name for path in (run.student, run.teacher)} == set(OF_A_RUN)
    shutil.copytree(tiny_teacher, run.path / inside)
    monkeypatch.chdir(tmp_path)
    assert absolute_teacher("run") == absolute_teacher(f"run/{inside}") == str(tmp_path / "run" / inside)
    assert resolve_teacher("run") == resolve_teacher(f"run/{inside}")
    assert absolute_teacher("local-dir:run") == str(tmp_path / "run" / inside)
    shutil.copytree(tiny_teacher, tmp_path / "model")  # a model is itself, whatever lies in it
    shutil.copytree(tiny_teacher, tmp_path / "model" / inside)
    assert absolute_teacher("model") == str(tmp_path / "model")
    (tmp_path / "begun" / inside).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"Give a run that has trained a student"):
        resolve_teacher("begun")


def test_a_run_that_has_trained_heads_stands_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = TeacherSpec("mine", "towers", str(tmp_path / "run" / "teacher"), 8, 224, 10.0, "softmax", "MIT", True)
    (tmp_path / "run" / "teacher").mkdir(parents=True)

    def spec_of_folder(path: Path) -> TeacherSpec | None:
        return heads if path == tmp_path / "run" / "teacher" else None

    known = TEACHER_LOADERS.get("towers")
    monkeypatch.setattr("teachers.load.TEACHER_LOADERS", {"towers": replace(known, spec_of_folder=spec_of_folder)})
    assert resolve_teacher(str(tmp_path / "run")) is heads
    assert absolute_teacher(str(tmp_path / "run")) == heads.source

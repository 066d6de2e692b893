"""Which model is linted, what stops a training and how it goes on, and that trained weights are run."""

import json

import pytest
import torch

from distill.console import Console
from distill.core.errors import UsageError
from distill.recipe import load_recipe
from distill.run_folder import RunFolder
from distill.stages import lint as stage
from distill.verbs.lint import lint
from distill.verbs.listing import list_names
from students.spec import STUDENTS
from students.student import build_student
from tests.command_line import distill

MOBILEVIT = "timm:mobilevitv2_050@64+text:1x64"  # separable attention over patches: six axes


def test_a_student_by_name_has_no_errors_and_says_what_was_not_looked_at():
    result = lint("nano", target=["coreml", "onnx-qnn"])
    assert result.errors == []
    assert result.targets == ["coreml-fp16", "onnx-qnn-fp16"]
    assert any("random" in note for note in result.notes)
    row = json.loads(json.dumps(result.to_json()))
    assert {"student", "targets", "findings", "mended", "notes", "rules"} == set(row)
    assert {"rule", "severity", "where", "mend", "source", "targets"} <= set(row["findings"][0])
    with pytest.raises(UsageError, match="coreml"):
        lint("nano", target="coremll")
    with pytest.raises(UsageError, match="'ANE-RANK'"):
        lint("nano", settings={"lint.allow": ["ANE-RANKS"]})
    with pytest.raises(UsageError, match="nanoo"):
        lint("nanoo")


def test_trained_weights_are_run_and_large_numbers_found(tmp_path):
    student = build_student(STUDENTS.get("nano"), 0)
    student.save(tmp_path / "sound", {"licence": "none"})
    with torch.no_grad():
        student.clip.visual.transformer.resblocks[1].mlp.c_fc.bias += 1e6
    student.save(tmp_path / "loud", {"licence": "none"})
    sound, loud = (lint(tmp_path / name, target="coreml") for name in ("sound", "loud"))
    assert "ANE-FP16" not in {row["rule"] for row in sound.findings}
    row = next(row for row in loud.findings if row["rule"] == "ANE-FP16")
    assert row["tower"] == "image"
    assert row["where"][0] == "visual.transformer.resblocks.1.mlp.c_fc"
    assert any("images and captions of rendered" in note for note in loud.notes)


def test_a_run_is_linted_for_its_own_targets_unless_others_are_named(tmp_path, monkeypatch):
    from distill.stages.opening import keep_recipe

    run = RunFolder(tmp_path)
    keep_recipe(run, load_recipe(None, ["export.targets=['onnx-qnn']", "lint.allow=['HTP-CH']"]), {}, "run")
    build_student(STUDENTS.get("nano"), 0).save(run.student, {"licence": "none"})
    seen = []

    def look(model, job, console):
        seen.append((job.export.targets, job.lint.allow))
        return stage.Linted([], [], [], 0, [])

    monkeypatch.setattr(stage, "lint_model", look)
    lint(tmp_path)
    lint(tmp_path, target="coreml")
    assert seen == [(("onnx-qnn",), ("HTP-CH",)), (("coreml",), ("HTP-CH",))]


def test_a_name_without_weights_here_is_looked_at_by_its_architecture(monkeypatch):
    from distill.core.errors import DistillError

    def missing(*given, **named):
        raise DistillError("The weights are not here. Get them.")

    monkeypatch.setattr(stage, "take_in", missing)
    monkeypatch.setattr(stage, "named_config", lambda model: STUDENTS.get("rendered-teacher").model_cfg)
    found = stage.lint_model("open_clip:SOME/tag", load_recipe(None, ["export.targets=['coreml']"]), Console())
    assert found.notes[0].startswith("Its weights are not here")
    assert found.findings


def test_errors_stop_a_training_with_the_rule_its_mend_and_how_to_go_on(tmp_path):
    run, recipe = (
        RunFolder(tmp_path / "run"),
        load_recipe(None, [f"student.name={MOBILEVIT}", "export.targets=['coreml', 'onnx']"]),
    )
    with pytest.raises(UsageError) as refused:
        stage.refuse_errors(recipe, run)
    message = str(refused.value)
    assert "ANE-RANK (coreml-fp16)" in message
    assert "Mend: " in message
    allowed = message.partition("--set 'lint.allow=")[2].rstrip("'")
    assert set(json.loads(allowed)) == {"ANE-RANK", "ANE-UNFOLD"}
    stage.refuse_errors(load_recipe(recipe, [f"lint.allow={allowed}"]), run)  # as printed
    stage.refuse_errors(load_recipe(recipe, ["lint.enabled=false"]), run)
    run.student.mkdir(parents=True)
    stage.refuse_errors(recipe, run)  # it is trained
    said = distill("train", "--student", MOBILEVIT, "--data", "rendered:train=24,eval=8", "--set", "objective=clip", "--set",
                   "student.inherit=none", "--set", "export.targets=['coreml', 'onnx']", "--out", tmp_path / "other")  # fmt: skip
    assert said.returncode == 2
    assert "ANE-RANK" in said.stderr
    assert not (tmp_path / "other").exists()


def test_the_command_line_tells_rule_place_and_mend_and_ends_with_1_for_errors():
    said = distill("lint", MOBILEVIT, "--target", "coreml", "--set", "lint.allow=['ANE-UNFOLD']")
    assert said.returncode == 1
    assert "E ANE-RANK (image; coreml-fp16)" in said.stdout
    assert "visual.trunk.stages" in said.stdout
    assert "ANE-UNFOLD" not in said.stdout
    assert "1 error, " in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 132
    names = {row["name"]: row["severity"] for row in list_names("rules")}
    assert names["ANE-MASK"] == "error"
    assert names["HTP-CH"] == "warning"

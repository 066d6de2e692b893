"""The zero-shot classifier against open_clip's own protocol, its comparison against planted faults, and an export of one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import distill
from distill.core.errors import UsageError
from export.app.classes import Classes
from export.artifacts.folder import examine_alone
from export.artifacts.record import ExportArtifact
from export.children.bench import load_runners, time_runs
from export.latency.measure import _eager_job
from export.run import export_student
from export.settings import ExportSettings
from export.target import get_target
from export.towers.classifier import Classifier, label_embeddings, template_embeddings
from export.towers.faults import check_program
from export.towers.probabilities import compare_probabilities
from export.towers.tower import deployable_towers
from students.student import Student

CLASSES = Classes(("red circle", "dog", "two boats"), ("a photo of a {}.", "a drawing of a {}", "{}"))


def _theirs(student: Student, classes: Classes) -> torch.Tensor:
    """[k, D] by open_clip's own function."""
    from open_clip import build_zero_shot_classifier

    made: torch.Tensor = build_zero_shot_classifier(
        student.clip, student.tokenizer, classes.labels, [lambda c, t=t: t.format(c) for t in classes.templates]
    )
    return made.T


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_probabilities_are_those_of_open_clips_protocol(student: Student, pixels: np.ndarray, kind: str) -> None:
    image, _ = deployable_towers(student)
    scale, bias = 50.0, -7.0 if kind == "sigmoid" else 0.0
    each = template_embeddings(student, CLASSES)
    classifier = Classifier(image, label_embeddings(each), scale, bias, kind).eval()
    with torch.no_grad():
        logits = scale * student.encode_image(torch.from_numpy(pixels)) @ _theirs(student, CLASSES).T + bias
        wanted = logits.softmax(-1) if kind == "softmax" else logits.sigmoid()
        found = classifier(torch.from_numpy(pixels))
        assert float(wanted.std(0).max()) > 0.02, "pictures that are all alike prove nothing"
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    program = torch.export.export(classifier, (torch.from_numpy(pixels[:1]),))
    check_program(program, "classifier")


def test_a_label_that_the_text_tower_would_cut_is_refused(student: Student) -> None:
    with pytest.raises(UsageError, match="label 'very very"):
        template_embeddings(student, Classes(("dog", "very " * 20), ("a {}",)))


def test_layers_that_stay_floats_stay_so_inside_a_classifier_too(student: Student, pixels: np.ndarray) -> None:
    image, _ = deployable_towers(student)
    layers = [name for name, _ in image.named_parameters() if name.endswith("weight")][:3]
    kept = get_target("onnx-w8").keeping({"image": layers, "text": []}).options["kept"]
    assert (kept["image"], kept["text"]) == (layers, [])
    classifier = Classifier(image, label_embeddings(template_embeddings(student, CLASSES)), 1.0, 0.0, "softmax")
    inner, outer = image.state_dict(), classifier.state_dict()
    assert len(kept["classifier"]) == 3
    for own, name in zip(layers, kept["classifier"], strict=True):
        assert torch.equal(inner[own], outer[name])


def test_figures_by_hand() -> None:
    eager = np.array([[0.7, 0.2, 0.1], [0.4, 0.395, 0.205], [0.1, 0.1, 0.8]], np.float32)
    made = np.array([[0.65, 0.25, 0.1], [0.39, 0.4, 0.21], [0.5, 0.1, 0.4]], np.float32)
    report = compare_probabilities(made, eager, "by hand")
    assert report.probability_difference == pytest.approx(0.4)
    assert report.top1_agreement == pytest.approx(2 / 3)  # the second picture's labels are as good as equal
    # Among many labels no probability is large: another one of twice the probability is no tie.
    many = np.array([[0.004, 0.002, 0.002, 0.992 * 0.004]] * 2, np.float32)
    for row, agreement in (([0, 1, 0, 0], 0.0), ([0, 0, 0, 1], 1.0), ([1, 0, 0, 0], 1.0)):
        said = many + 0.003 * np.array([row, row], np.float32)
        assert compare_probabilities(said, many, "").top1_agreement == agreement
    assert (report.checked, report.cosine_min, report.samples) == (True, None, 3)
    broken = compare_probabilities(np.where(np.eye(3) > 0, np.nan, made).astype(np.float32), eager, "")
    assert (broken.probability_difference, broken.top1_agreement) == (1.0, 0.0)


@pytest.mark.process
def test_an_export_with_labels(
    student: Student, student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    """The file says what open_clip's protocol says; record, labels and golden samples are of the same order; it is timed."""
    (artifacts, folder) = _export(student_dir, pixels, tokens, tmp_path, CLASSES)
    assert [artifact.tower for artifact in artifacts] == ["image", "text", "classifier"]
    record = artifacts[2]
    with torch.no_grad():
        logits = student.encode_image(torch.from_numpy(pixels)) @ _theirs(student, CLASSES).T
        wanted = (student.logit_scale * logits).softmax(-1).numpy()
    run = get_target("onnx").load(folder / record.file)
    np.testing.assert_allclose(np.concatenate([run(row[None]) for row in pixels]), wanted, atol=2e-5)
    assert record.output == {
        "name": "probabilities", "shape": "float32[1,3]", "meaning": "a probability per label, as `classes` says",
    }  # fmt: skip
    assert (folder / record.classes["labels"]).read_text().splitlines() == list(CLASSES.labels)
    assert record.parity.probability_difference is not None
    assert record.parity.probability_difference < 1e-4
    golden = load_file(folder / "golden.safetensors")
    np.testing.assert_allclose(golden["label_probabilities"], wanted[:4], atol=2e-5)
    job = {"runtime": "eager", "source": str(student_dir), "towers": list(record.towers), "labels": 3, "threads": 1}
    runners = load_runners(job)
    assert runners["classifier"](pixels[:1]).sum() == pytest.approx(1)
    assert len(time_runs(runners["classifier"], pixels, runs=2, warmup_runs=0)) == 2
    assert _eager_job(student_dir, {folder: artifacts}) == {
        "source": str(student_dir), "batch": 1, "towers": ["image", "text", "classifier"], "labels": 3,
    }  # fmt: skip
    assert examine_alone(folder).wrong == ""
    (folder / "artifact.json").write_text(json.dumps([artifact.to_json() for artifact in artifacts[:2]]))
    assert "a tower is missing" in examine_alone(folder).wrong


def _export(
    student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, out: Path, classes: Classes, **changes: Any
) -> tuple[list[ExportArtifact], Path]:
    settings = ExportSettings(targets=("onnx",), **changes)
    made = export_student(
        student_dir, out, settings, pixels=pixels, tokens=tokens, licence="MIT", provenance={}, resume=True, classes=classes
    )  # fmt: skip
    return made, out / "onnx-fp32"


def test_bars(student_dir: Path, make_job: Callable[..., Any]) -> None:
    """Each bar of a classifier is held to, named, and of its precision."""
    report = compare_probabilities(np.eye(2, dtype=np.float32) * 0.9 + 0.05, np.eye(2, dtype=np.float32), "x")
    for name, closeness in (("onnx-fp32", 0.0005), ("onnx-fp16", 0.05), ("onnx-w8", 0.25)):
        job = make_job(name)
        assert job.probability_bar == pytest.approx(closeness)
        within = replace(report, probability_difference=closeness * 0.99)
        assert job.misses(within) == ""
        assert "largest difference" in job.misses(replace(report, probability_difference=closeness * 1.01))
        assert "largest difference" in job.misses(replace(report, probability_difference=float("nan")))
        assert "89.0% of the pictures" in job.misses(replace(within, top1_agreement=0.89))


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Any]:
    from export.run import _job

    return lambda name: _job(get_target(name), tmp_path, {"student": "x"}, ExportSettings(), "MIT", {})


def test_a_call_with_bad_labels_is_refused_before_anything_is_loaded(student_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ncat\n")
    with pytest.raises(UsageError, match="more than once: 'cat'"):
        distill.export(student_dir.parent, classes=tmp_path / "labels.txt", target="onnx")
    with pytest.raises(UsageError, match=r"has no \{\}"):
        distill.export(student_dir.parent, classes=tmp_path / "labels.txt", template=["x"], target="onnx")

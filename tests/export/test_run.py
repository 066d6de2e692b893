"""Exporting a student folder: what is written, what a resume keeps, and each way to fail."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from export.app.kit import AppKit
from export.app.samples import Samples
from export.artifacts.folder import hash_path, read_artifacts, size_of
from export.artifacts.record import ExportArtifact
from export.children.process import spawn
from export.run import export_student
from export.settings import ExportSettings
from export.target import get_target
from export.towers.parity import Reference
from students.student import Student, load_student

FOLDERS = ["coreml-fp16", "executorch-xnnpack-fp32", "onnx-fp32"]


def _export(
    student_dir: Path,
    out: Path,
    pixels: np.ndarray,
    tokens: np.ndarray,
    targets: tuple[str, ...] = ("onnx",),
    min_cosine: float = 0.99,
    **changes: Any,
) -> list[ExportArtifact]:
    settings = ExportSettings(targets=targets, min_cosine=min_cosine)
    arguments = {"licence": "Apache-2.0", "provenance": {"teacher": "none"}, "resume": False} | changes
    return export_student(student_dir, out, settings, pixels=pixels, tokens=tokens, **arguments)


@pytest.fixture
def samples(captions: list[str], photos: list[bytes], provenance: dict[str, Any]) -> dict[str, Any]:
    """What `exported` was made with beside pixels and tokens."""
    return {"captions": captions, "photos": photos, "provenance": provenance}


@pytest.mark.process
def test_everything_is_there_and_agrees(exported: tuple[Path, list[ExportArtifact]], tokens: np.ndarray) -> None:
    out, artifacts = exported
    assert sorted(p.name for p in out.iterdir()) == [*FOLDERS[:2], "logs", FOLDERS[2]]
    assert [(a.target, a.tower) for a in artifacts] == [
        (target, tower) for target in ("coreml", "executorch-xnnpack", "onnx") for tower in ("image", "text")
    ]
    for artifact in artifacts:
        folder = out / f"{artifact.target}-{artifact.precision}"
        file = folder / artifact.file
        assert read_artifacts(folder)[0 if artifact.tower == "image" else 1] == artifact
        assert artifact.sha256 == hash_path(file)
        assert artifact.size_bytes == size_of(file) > 1000
        assert artifact.parity.samples == len(tokens)
        assert artifact.parity.cosine_min is not None
        assert artifact.parity.cosine_min > (0.9999 if artifact.precision == "fp16" else 0.999999)
        assert artifact.parity.top1_agreement == 1.0
        assert artifact.licence == "Apache-2.0"
        assert artifact.provenance["teachers"] == ["big", "bigger"]
        assert "rehearsal" not in artifact.provenance
        assert artifact.versions["torch"]
    assert "not Core ML itself" in artifacts[0].parity.checked_by
    by_tower = {(a.target, a.tower): a.size_bytes for a in artifacts}
    assert by_tower["coreml", "text"] < 0.6 * by_tower["onnx", "text"]  # fp16 against fp32


@pytest.mark.process
def test_a_resume_keeps_whole_folders(
    exported: tuple[Path, list[ExportArtifact]],
    student_dir: Path,
    pixels: np.ndarray,
    tokens: np.ndarray,
    samples: dict[str, Any],
    tmp_path: Path,
) -> None:
    out, artifacts = shutil.copytree(exported[0], tmp_path / "export"), exported[1]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    told: list[tuple[int, int, str]] = []
    again = _export(
        student_dir, out, pixels, tokens, targets=("coreml", "xnnpack", "onnx"), resume=True, **samples,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert again == artifacts
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert [(done, total) for done, total, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert all("unchanged" in note for _, _, note in told)


@pytest.mark.process
def test_a_resume_exports_again_what_is_not_whole_and_gives_the_same_bytes(
    exported: tuple[Path, list[ExportArtifact]],
    student_dir: Path,
    pixels: np.ndarray,
    tokens: np.ndarray,
    samples: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Two targets' folders are damaged, each in its own way; new processes then make files with the hashes of the first."""
    out = tmp_path / "export"
    shutil.copytree(exported[0], out)
    data = bytearray((out / "onnx-fp32" / "image.onnx").read_bytes())
    data[-100] ^= 1
    (out / "onnx-fp32" / "image.onnx").write_bytes(data)
    (out / "coreml-fp16" / "artifact.json").unlink()
    (out / ".partial-work").mkdir()  # as a killed run leaves it
    lines: list[str] = []
    again = _export(
        student_dir,
        out,
        pixels,
        tokens,
        targets=("coreml", "executorch", "onnx"),
        resume=True,
        **{**samples, "provenance": {**samples["provenance"], "rehearsal": True}},
        progress=lambda done, total, note: lines.append(note),
    )
    assert sum("converting" in line for line in lines) == 2
    assert sum("unchanged" in line for line in lines) == 1
    assert {(a.target, a.tower): a.sha256 for a in again} == {(a.target, a.tower): a.sha256 for a in exported[1]}
    assert all(a.provenance["rehearsal"] is True for a in again)
    assert not (out / ".partial-work").exists()
    # What is said about a kept file changes in LICENSE and artifact.json alike, and the next resume finds both whole.
    for _ in range(2):
        found = _export(
            student_dir, out, pixels, tokens, resume=True, **{**samples, "provenance": {**samples["provenance"], "seed": 4}},
            progress=lambda *step: lines.append(step[2]),
        )  # fmt: skip
        assert "unchanged" in lines[-1]
        assert found == read_artifacts(out / "onnx-fp32")
        assert {a.provenance["seed"] for a in found} == {4}
        assert "seed: 4" in (out / "onnx-fp32" / "LICENSE").read_text()


@pytest.mark.process
def test_another_licence_makes_another_file(
    exported: tuple[Path, list[ExportArtifact]],
    student_dir: Path,
    pixels: np.ndarray,
    tokens: np.ndarray,
    samples: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The terms are inside the file, so one that was exported under others is not kept."""
    out = tmp_path / "export"
    shutil.copytree(exported[0] / "onnx-fp32", out / "onnx-fp32")
    made: list[str] = []

    def export_all(todo: list[Any], *arguments: Any) -> None:
        made.extend(f"{job.target.folder} under {job.notice.licence}" for job in todo)
        raise DistillError("enough")

    monkeypatch.setattr("export.run._export_all", export_all)
    _export(student_dir, out, pixels, tokens, resume=True, **samples)
    assert made == []
    with pytest.raises(DistillError, match="enough"):
        _export(student_dir, out, pixels, tokens, resume=True, licence="other terms", **samples)
    assert made == ["onnx-fp32 under other terms"]


@pytest.mark.process
def test_parity_below_the_bar_fails_and_keeps_the_folder_aside(
    exported: tuple[Path, list[ExportArtifact]],
    student_dir: Path,
    pixels: np.ndarray,
    tokens: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker is replaced by one that hands over finished files and reports a cosine of 0.9998 for the text tower."""
    finished = exported[0] / "onnx-fp32"

    def programs(student_dir: Path, folder: Path, given: Samples, forms: Any) -> dict[str, Any]:
        embeddings = np.zeros((len(pixels), 32), np.float32)
        Reference(pixels, tokens, embeddings, embeddings).save(folder / "reference.npz")
        AppKit.write(load_student(student_dir), "softmax", folder)
        return {"float": {}}

    def worker(arguments: list[str], **options: Any) -> Any:
        job = json.loads(Path(arguments[-1]).read_text())
        for tower in ("image", "text"):
            shutil.copy(finished / f"{tower}.onnx", job["folder"])
        parity = {"checked_by": "x", "cosine_mean": 1.0, "top1_agreement": 1.0, "samples": 12}
        towers = {
            tower: {"parity": {**parity, "cosine_min": cosine}, "operations": {}, "convert_s": 1.0, "check_s": 1.0}
            for tower, cosine in (("image", 0.99999), ("text", 0.9998))
        }
        Path(job["result"]).write_text(json.dumps(towers))
        return spawn(["-c", ""], **options)

    monkeypatch.setattr("export.run.write_programs", programs)
    monkeypatch.setattr("export.children.conversion.spawn", worker)
    out = tmp_path / "out"
    with pytest.raises(
        DistillError, match=r"do not say what .* text: smallest cosine 0\.99980, wanted 0\.99990"
    ) as caught:
        _export(student_dir, out, pixels, tokens)
    assert caught.value.exit_status == 1
    assert "onnx-fp32.failed-parity" in str(caught.value)
    assert sorted(p.name for p in out.iterdir()) == ["logs", "onnx-fp32.failed-parity"]
    assert read_artifacts(out / "onnx-fp32.failed-parity")[1].parity.cosine_min == 0.9998
    passed = _export(student_dir, out, pixels, tokens, min_cosine=0.9)  # fp32: 0.999
    assert [a.tower for a in passed] == ["image", "text"]
    assert sorted(p.name for p in out.iterdir()) == ["logs", "onnx-fp32"]
    # A resume holds a kept folder to the bar of this call.
    with pytest.raises(DistillError, match="do not say what"):
        _export(student_dir, out, pixels, tokens, resume=True)


@pytest.mark.process
def test_a_worker_that_dies_is_reported_with_its_log(
    student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(student_dir: Path, folder: Path, given: Samples, forms: Any) -> dict[str, Any]:
        embeddings = np.zeros((len(pixels), 32), np.float32)
        Reference(pixels, tokens, embeddings, embeddings).save(folder / "reference.npz")
        AppKit.write(load_student(student_dir), "softmax", folder)
        return {"float": {"image": str(folder / "gone.pt2"), "text": str(folder / "gone.pt2")}}

    monkeypatch.setattr("export.run.write_programs", broken)
    with pytest.raises(DistillError, match="Exporting to onnx failed") as caught:
        _export(student_dir, tmp_path, pixels, tokens)
    log = tmp_path / "logs" / "onnx-fp32.log"
    assert str(log) in str(caught.value)
    last = log.read_text().strip().splitlines()[-1]
    assert "FileNotFoundError" in last
    assert "gone.pt2" in last
    assert last in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs"]


def test_bad_calls(
    student: Student,
    student_dir: Path,
    pixels: np.ndarray,
    tokens: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(kind: type[DistillError], words: str, *arguments: Any, **changes: Any) -> None:
        with pytest.raises(kind, match=words):
            _export(*arguments, **changes)

    out = tmp_path / "out"
    refused(UsageError, "executorch-xnnpack", student_dir, out, pixels, tokens, targets=("executorch-xnnpak",))
    refused(UsageError, "model.safetensors", tmp_path, out, pixels, tokens)
    refused(UsageError, r"float32 \[n, 3, S, S\]", student_dir, out, pixels.astype(np.float64), tokens)
    refused(UsageError, r"\[0, 1\]", student_dir, out, pixels * 255, tokens)
    refused(UsageError, r"int32 \[m, L\]", student_dir, out, pixels, tokens.astype(np.int64))
    refused(UsageError, "do not fit the student", student_dir, out, pixels[:, :, :16, :16], tokens)
    monkeypatch.setattr(type(get_target("onnx")), "requires", {"no_such_package_here": "nspkg>=2"})
    refused(DistillError, "pip install 'nspkg>=2'", student_dir, out, pixels, tokens)
    assert not out.exists() or not any(p.name.startswith("onnx") for p in out.iterdir())


def test_hash_of_a_package_is_over_names_and_contents(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
    for name, order in (("one", ("a", "sub/b")), ("two", ("sub/b", "a"))):
        for file in order:
            (tmp_path / name / file).write_text(file)
    assert hash_path(tmp_path / "one") == hash_path(tmp_path / "two")
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    assert hash_path(tmp_path / "one") != hash_path(tmp_path / "two")
    assert size_of(tmp_path / "one") == len("a") + len("sub/b")


def test_reading_what_is_no_exported_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"artifact\.json is missing"):
        read_artifacts(tmp_path)
    (tmp_path / "artifact.json").write_text(json.dumps([{"target": "onnx"}]))
    with pytest.raises(UsageError, match="cannot be read"):
        read_artifacts(tmp_path)


@pytest.mark.process
def test_fastvit_exports(fastvit: Student, tmp_path: Path) -> None:
    """MobileCLIP2's image tower (64 px, to be quick) with lively weights: convolutions, squeeze-excite, attention, fp16."""
    student = fastvit
    student.save(tmp_path / "student", {})
    coarse = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    pixels = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear").numpy()
    tokens = student.tokenize([f"{n} boats" for n in range(6)]).int().numpy()
    artifacts = _export(tmp_path / "student", tmp_path / "out", pixels, tokens, targets=("coreml",))
    for artifact in artifacts:
        assert artifact.parity.cosine_min is not None
        assert artifact.parity.cosine_min > 0.999
        assert artifact.parity.samples == 6
        # Well conditioned: no order of summation says anything else.
        assert artifact.parity.order_cosine_min is not None
        assert artifact.parity.order_cosine_min > 0.9995
        assert not artifact.parity.fragile


@pytest.mark.process
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_a_file_in_the_users_folder_does_not_stand_in_for_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attr.py").write_text("raise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    with open(tmp_path / "log", "wb") as log, spawn(["-c", "import attr"], threads=1, log=log) as child:
        assert child.wait(60) == 0, (tmp_path / "log").read_text()

"""An exported file is taken for good only when it is whole, passed, unedited and of the student in the run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distill
from distill.core import atomic
from distill.core.errors import DistillError, UsageError
from distill.run_folder import RunFolder
from export.artifacts.folder import ARTIFACT_FILE, FAILED_PARITY, examine
from export.run import export_student
from export.settings import ExportSettings

pytestmark = pytest.mark.process


@pytest.fixture
def run(exported: tuple[Path, list[Any]], student_dir: Path, tmp_path: Path) -> RunFolder:
    """A run folder with a student and its exports: onnx, coreml, executorch."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(student_dir, folder.student)
    shutil.copytree(exported[0], folder.export)
    return folder


def wrong(run: RunFolder) -> dict[str, str]:
    return {found.folder.name: found.wrong for found in examine(run.export, run.student)}


def test_good_files_are_good(run: RunFolder) -> None:
    assert wrong(run) == {"coreml-fp16": "", "executorch-xnnpack-fp32": "", "onnx-fp32": ""}
    assert [folder.name for folder in run.exported()] == sorted(wrong(run))


def test_each_kind_of_bad_folder_is_left_out_with_its_reason(run: RunFolder) -> None:
    shutil.copytree(run.export / "onnx-fp32", run.export / f"onnx-fp32{FAILED_PARITY}")
    data = bytearray((run.export / "onnx-fp32" / "image.onnx").read_bytes())
    data[-50] ^= 1
    (run.export / "onnx-fp32" / "image.onnx").write_bytes(data)
    (run.export / "coreml-fp16" / ARTIFACT_FILE).write_text("{")
    record = json.loads((run.export / "executorch-xnnpack-fp32" / ARTIFACT_FILE).read_text())
    (run.export / "executorch-xnnpack-fp32" / ARTIFACT_FILE).write_text(json.dumps(record[:1]))
    found = wrong(run)
    assert "image.onnx" in found["onnx-fp32"]
    assert "failed parity" in found[f"onnx-fp32{FAILED_PARITY}"]
    assert "cannot be read" in found["coreml-fp16"]
    assert "tower is missing" in found["executorch-xnnpack-fp32"]
    assert run.exported() == []


def test_files_of_another_student_are_foreign(run: RunFolder) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(run.student / "model.safetensors")
    state["logit_scale"] += 1
    save_file(state, run.student / "model.safetensors")
    assert all("another student" in reason for reason in wrong(run).values())
    assert run.exported() == []
    with pytest.raises(UsageError, match="Nothing is exported"):
        distill.profile(run.path, device="host")


def test_a_typo_with_overwrite_deletes_nothing(run: RunFolder) -> None:
    (run.export / "NOTES.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in run.export.rglob("*")}
    with pytest.raises(UsageError, match="onxx"):
        distill.export(run.path, target="onxx", overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in run.export.rglob("*")} == before


def test_a_failed_export_leaves_the_good_files_of_before(
    run: RunFolder, pixels: np.ndarray, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the named target is made again, and its old files stay until new ones are whole and passed."""
    before = {
        path: atomic.sha256_file(path) for path in run.export.rglob("*") if path.is_file() and "logs" not in path.parts
    }

    def broken(*_: Any) -> Any:
        raise DistillError("no room for the towers")

    monkeypatch.setattr("export.run.write_programs", broken)
    with pytest.raises(DistillError, match="no room"):
        export_student(
            run.student, run.export, ExportSettings(targets=("onnx",)), pixels=pixels, tokens=tokens, licence="x",
            provenance={}, resume=False,
        )  # fmt: skip
    assert {path: atomic.sha256_file(path) for path in before} == before
    assert set(wrong(run).values()) == {""}

"""Two exports, or an export and a profile, never work in one folder at once; a killed one blocks nobody."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.folders.lock import LOCK_FILE, BusyError, working_in
from export.artifact import hash_path
from export.profile import profile
from export.run import export_student
from export.settings import ExportSettings, ProfileSettings


def _export(student_dir: Path, out: Path, pixels: np.ndarray, tokens: np.ndarray) -> list[Any]:
    settings = ExportSettings(targets=("onnx",), min_cosine=0.99)
    return export_student(
        student_dir, out, settings, pixels=pixels, tokens=tokens, licence="x", provenance={}, resume=False
    )


def test_a_second_export_says_who_is_at_work_and_touches_nothing(
    student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "export"
    with working_in(out, "distill export"):
        (out / ".partial-work").mkdir()  # of the first
        (out / ".partial-work" / "image.pt2").write_text("x")
        with pytest.raises(BusyError, match=r"distill export is at work in .* as process \d+ on"):
            _export(student_dir, out, pixels, tokens)
        assert (out / ".partial-work" / "image.pt2").read_text() == "x"


@pytest.mark.process
def test_a_profile_waits_for_no_export(exported: tuple[Path, list[Any]], student_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    shutil.copytree(exported[0] / "onnx-fp32", out / "onnx-fp32")
    with working_in(out, "distill export"), pytest.raises(BusyError, match="distill export is at work"):
        profile([out / "onnx-fp32"], student_dir, ProfileSettings(runs=1, warmup_runs=1, rounds=1))
    assert not list(out.rglob("profile-*"))


@pytest.mark.process
def test_two_exports_at_once_end_with_one_good_folder(
    student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    """Two processes for one folder: one exports it whole, the other ends with the message."""
    np.savez(tmp_path / "inputs.npz", pixels=pixels, tokens=tokens)
    code = (
        "import sys, pathlib, numpy as np\n"
        "from export.run import export_student\n"
        "from export.settings import ExportSettings\n"
        "student, out, inputs = map(pathlib.Path, sys.argv[1:])\n"
        "given = np.load(inputs)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "export_student(student, out, ExportSettings(targets=('onnx',), min_cosine=0.99), pixels=given['pixels'],\n"
        "               tokens=given['tokens'], licence='x', provenance={}, resume=False)\n"
    )
    out = tmp_path / "export"
    places = [str(student_dir), str(out), str(tmp_path / "inputs.npz")]
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", code, *places], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in pair:
        assert process.stdout is not None
        process.stdout.readline()
    ends = []
    for process in pair:  # both begin within a moment
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in pair:
        _, err = process.communicate()
        ends.append((process.returncode, err.decode()))
    assert sorted(code for code, _ in ends) == [0, 1]
    assert "is at work in" in next(err for code, err in ends if code)
    record = json.loads((out / "onnx-fp32" / "artifact.json").read_text())
    assert all(hash_path(out / "onnx-fp32" / entry["file"]) == entry["sha256"] for entry in record)
    assert sorted(child.name for child in out.iterdir()) == ["logs", "onnx-fp32"]
    assert LOCK_FILE not in {child.name for child in out.iterdir()}

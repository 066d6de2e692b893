"""Two exports, or an export and a profile, never work in one folder at once; a killed one blocks nobody."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.folders.lock import BusyError, working_in
from export.latency.measure import profile
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
    shutil.copytree(exported[0] / "onnx-fp32", out / "onnx-fp32", ignore=shutil.ignore_patterns("profile-*"))
    with working_in(out, "distill export"), pytest.raises(BusyError, match="distill export is at work"):
        profile([out / "onnx-fp32"], student_dir, ProfileSettings(runs=1, warmup_runs=1, rounds=1))
    assert not list(out.rglob("profile-*"))


@pytest.mark.process
def test_of_two_exports_at_once_one_works(
    student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    """Two processes for one folder, whose work is a file and a pause: one does it, the other ends with the message."""
    np.savez(tmp_path / "inputs.npz", pixels=pixels, tokens=tokens)
    code = (
        "import os, sys, pathlib, time, numpy as np\n"
        "import export.run\n"
        "from export.settings import ExportSettings\n"
        "student, out, inputs = map(pathlib.Path, sys.argv[1:])\n"
        "def work(todo, student, given, jobs, done, say):\n"
        "    (out / f'worked-{os.getpid()}').touch()\n"
        "    time.sleep(1.5)\n"
        "    done[todo[0].target.folder] = []\n"
        "export.run._export_all = work\n"
        "given = np.load(inputs)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "export.run.export_student(student, out, ExportSettings(targets=('onnx',)), pixels=given['pixels'],\n"
        "    tokens=given['tokens'], licence='x', provenance={}, resume=False)\n"
    )
    out = tmp_path / "export"
    command = [sys.executable, "-c", code, str(student_dir), str(out), str(tmp_path / "inputs.npz")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    pair = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    for process in pair:
        assert process.stdout is not None
        process.stdout.readline()
    for process in pair:  # both begin within a moment
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [(process.communicate()[1], process.returncode) for process in pair]
    assert sorted(status for _, status in ends) == [0, 1]
    assert "distill export is at work in" in next(said for said, status in ends if status)
    (worked,) = out.iterdir()
    assert worked.name == f"worked-{next(process.pid for process in pair if process.returncode == 0)}"

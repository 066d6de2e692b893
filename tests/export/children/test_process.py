"""Child processes: they find our modules from anywhere, and end when their parent does."""

import subprocess
from pathlib import Path

import pytest

from export.children.process import failure, spawn


@pytest.mark.process
def test_a_child_finds_our_modules_and_ends_with_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import time; from export.children.convert import exit_with_parent; exit_with_parent(); print('up'); time.sleep(60)"
    with open(tmp_path / "log", "wb") as log:
        child = spawn(["-c", code], threads=1, log=log, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        assert child.stdout.readline().strip() == b"up"
        assert child.poll() is None
        child.stdin.close()  # what happens to the pipe when the parent is killed
        assert child.wait(timeout=20) == 3
    finally:
        child.kill()
        child.stdout.close()


def test_a_failure_shows_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {n}" for n in range(100)))
    message = str(failure("Exporting", -9, log))
    assert "signal 9" in message
    assert "line 99" in message
    assert "line 91" not in message
    assert str(log) in message
    assert "it printed nothing" in str(failure("Exporting", 1, tmp_path / "none"))

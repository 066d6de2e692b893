"""Two calls never work in one run at once, and what refuses one leaves the run of the other as it was."""

import json
import os
import socket
from pathlib import Path

import psutil
import pytest

from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.core.existing import Existing
from distill.core.folders.lock import LOCK_FILE, BusyError
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.opening import discard_unless, share_run
from distill.verbs.endings import going_on


@pytest.fixture
def held_by_another(tmp_path: Path) -> RunFolder:
    """A run in which the process that started this one works."""
    run = RunFolder(tmp_path / "run")
    with going_on(run):
        share_run(run, Recipe(), Existing.REFUSE, verb="train")
    parent = psutil.Process(os.getppid())
    holder = {"host": socket.gethostname(), "pid": parent.pid, "started": parent.create_time(), "since": "10:00"}
    (run.path / LOCK_FILE).write_text(json.dumps({**holder, "what": "distill train"}))
    return run


@pytest.mark.parametrize("existing", [Existing.RESUME, Existing.OVERWRITE, Existing.REFUSE])
def test_a_second_call_is_refused_and_changes_nothing(held_by_another: RunFolder, existing: Existing) -> None:
    run = held_by_another
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    with pytest.raises(BusyError, match=f"distill train is at work in .* since 10:00, as process {os.getppid()} on"):
        with going_on(run):
            share_run(run, Recipe(seed=5), existing)
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before


def test_held_until_the_verb_ends(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(DistillError, match="stop"), going_on(run):
        share_run(run, Recipe(), Existing.REFUSE)
        assert (run.path / LOCK_FILE).exists()
        raise DistillError("stop")
    assert not (run.path / LOCK_FILE).exists()
    with going_on(run):  # goes on at once
        share_run(run, Recipe(), Existing.RESUME)
        (run.path / "old.txt").write_text("x")
        (run.path / "folder").mkdir()
    with going_on(run):  # the old run goes, but not the lock of this call
        share_run(run, Recipe(seed=3), Existing.OVERWRITE)
        assert {file.name for file in run.path.iterdir()} == {"recipe.toml", "resolved.json", LOCK_FILE}


def test_a_refused_call_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr("distill.stages.opening.MINIMUM_FREE_BYTES", 10**18)
    with pytest.raises(DistillError, match="MB are free"), going_on(run):
        share_run(run, Recipe(), Existing.REFUSE)
    assert not run.path.exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"), going_on(RunFolder(tmp_path / "file")):
        share_run(RunFolder(tmp_path / "file"), Recipe(), Existing.REFUSE)


def test_a_discarded_run_leaves_no_lock(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(DistillError), going_on(run):
        share_run(run, Recipe(), Existing.REFUSE)
        with discard_unless(run, run.reinforced):
            raise DistillError("bad data")
    assert not run.path.exists()


def test_a_finished_run_is_refused_as_before(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for _ in range(2):
        (run.path / "x").parent.mkdir(exist_ok=True)
        (run.path / "x").write_text("")
        with pytest.raises(OutputExistsError), going_on(run):
            share_run(run, Recipe(), Existing.REFUSE)

"""How verbs end when they cannot go on: Ctrl-C, disks that take no more, a loss that is not finite. What is printed is followed."""

import errno
import json
import os
import re
import shlex
import signal
import time

import psutil
import pytest

from distill.cli.base import terminated_as_interrupted
from distill.core import atomic
from distill.core.errors import Interrupted
from distill.core.existing import Existing
from distill.recipe import load_recipe
from distill.run_folder import RunFolder
from distill.stages.opening import open_run
from distill.verbs.endings import ending_well
from tests import forks
from tests.command_line import distill

TRAIN = [
    "--data",
    "set",
    "--set",
    "student.inherit=none",
    "--set",
    "train.batch_size=8",
    "--set",
    "train.checkpoint_every=2",
]


def printed_command(message):
    """The one command that a message says to call, as words after "distill"."""
    found = re.findall(r"(?:by|with): (distill .*)$", message, re.MULTILINE)
    assert len(found) == 1, message
    return shlex.split(found[0])[1:]


def test_the_advice_after_a_loss_that_is_not_finite_works_as_printed(runs):
    wild = ["--out", "wild", "--set", "train.steps=4", "--set", "train.lr=1e30"]
    bad = distill("train", *TRAIN, *wild, "--json", cwd=runs)
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["error"]["kind"] == "loss"
    assert "not finite at step" in bad.stderr
    good = distill(*printed_command(bad.stderr), cwd=runs)
    assert good.returncode == 0, good.stderr
    card = atomic.read_json(runs / "wild" / "student" / "card.json")
    assert [stop["settings"]["lr"] for stop in card["stopped_before"]] == [1e30]
    recipe = atomic.read_json(runs / "wild" / "resolved.json")["recipe"]
    assert recipe["train"]["lr"] == 1e-3
    done = distill("train", "wild", "--resume", "--set", "train.lr=0.5", cwd=runs)
    assert "other settings: train.lr" in done.stderr  # of a finished student nothing is to be mended


def test_after_a_stop_that_a_checkpoint_survives_another_rate_is_taken_and_another_job_refused(tmp_path):
    from distill.core.errors import UsageError

    run, job = RunFolder(tmp_path / "run"), load_recipe(None, {"data": "rendered:train=9", "train.lr": 1e30})
    open_run(run, job, Existing.REFUSE)
    (run.checkpoints / "step-00000002").mkdir(parents=True)
    (run.checkpoints / "step-00000002" / "state.json").write_text("{}")
    atomic.write_json(run.stopped, [{"step": 3, "why": "", "settings": {"lr": 1e30}, "checkpoint": 0}])
    with pytest.raises(UsageError, match=r"other settings: seed\."):
        open_run(run, load_recipe(job, {"train.lr": 1e-3, "seed": 7}), Existing.RESUME)
    assert run.stopped.exists()


@pytest.mark.parametrize(
    ("losses", "settings", "begins_at"),
    [
        ({"first": 5.0, "last": 3.0}, [1.0], 6),
        ({"first": 5.0, "last": 5.0}, [1.0], 0),  # no better than the start
        ({"first": 5.0, "last": float("nan")}, [1.0], 0),
        ({}, [1.0], 0),
        ({"first": 5.0, "last": 3.0}, [1.0, 1.0], 6),
        ({"first": 5.0, "last": 3.0}, [1.0, 0.3], 0),  # another rate has failed from there already
    ],
)
def test_training_goes_on_from_a_checkpoint_that_is_better_than_the_start(tmp_path, losses, settings, begins_at):
    import torch

    from distill.learning import checkpoint
    from distill.run_folder import RunFolder
    from distill.stages.training.stops import goes_on_from, prepare_to_go_on

    run, model = RunFolder(tmp_path), torch.nn.Linear(1, 1)
    checkpoint.save(
        run.checkpoints, 6, model.state_dict(), torch.optim.AdamW(model.parameters()).state_dict(), 1, None, losses
    )
    stop = {"step": 8, "why": "", "checkpoint": 6}
    atomic.write_json(run.stopped, [{**stop, "settings": {"lr": rate}} for rate in settings])
    assert goes_on_from(run)[0] == begins_at
    prepare_to_go_on(run)
    found = checkpoint.latest(run.checkpoints)
    assert (found.step if found else 0) == begins_at


def raising(error):
    def instead(*arguments, **options):
        raise error

    return instead


STOPPED = {
    "run": (["run", "--data", "set", "--set", "train.batch_size=8", "--out"], "distill.stages.train.train_stages", "distill run {out} --resume"),
    "train": (["train", *TRAIN, "--out"], "distill.stages.train.train_model", "distill train {out} --resume"),
    "reinforce": (
        ["reinforce", "--data", "rendered:train=24,eval=8", "--out"],
        "distill.verbs.reinforce._reinforce",
        "the same command with --resume",
    ),
    "eval": (["eval", "student"], "distill.evaluation.evalset.evaluate_model", "call again"),
    "export": (["export", "student"], "distill.stages.exporting.stage.export_stage", "distill export student --resume"),
    "profile": (["profile", "student"], "export.latency.measure.profile", "distill profile student --resume"),
    "calibrate": (["calibrate"], "export.latency.calibrate.calibrate", "Call again"),
    "choose": (
        ["choose", "--max-size", "40MB"],
        "distill.stages.latency.choose.choose",
        "call again",
    ),
    "plan": (["plan"], "distill.verbs.run.settled", "call again"),
    "curate": (["curate", "set", "--dry-run"], "reinforced_data.curation.curate.curate", "call again"),
    "predict": (["predict", "student", "photo.jpg"], "distill.verbs.predict.recipe_of", "call again"),
    "report": (["report", "student"], "distill.reporting.facts.read_run", "call again"),
    "compare": (["compare", "set", "student"], "distill.reporting.facts.read_run", "call again"),
    "push": (["push", "student", "elsewhere"], "distill.reporting.facts.read_run", "call again"),
    "demo": (["demo", "student"], "distill.stages.evaluate.open_evaluation", "call again"),
    "lint": (["lint", "nano"], "distill.stages.lint.lint_model", "call again"),
    "list": (["list", "students"], "distill.verbs.listing.list_names", "call again"),
    "doctor": (["doctor"], "distill.verbs.machine.doctor", "call again"),
    "devices": (["devices"], "distill.verbs.machine.devices", "call again"),
}  # fmt: skip


def test_every_verb_is_looked_at():
    from distill.cli import app

    assert {command.name or command.callback.__name__ for command in app.registered_commands} == set(STOPPED)


@pytest.mark.parametrize("name", STOPPED)
def test_ctrl_c_says_what_was_kept_and_how_to_go_on(runs, tmp_path, monkeypatch, name):
    words, inside, how = STOPPED[name]
    out = [tmp_path / "o"] if words[-1] == "--out" else []
    monkeypatch.setattr(inside, raising(KeyboardInterrupt()))
    monkeypatch.setattr("distill.verbs.profile._found", lambda path: ([], path))  # the student has no exports
    said = distill(*words, *out, *as_json(name), cwd=runs)
    assert said.returncode == 130
    assert said.stderr.count("Interrupted.") == 1
    assert how.replace("{out}", str(tmp_path / "o")) in said.stderr
    if name == "demo":
        assert said.stdout == ""
    else:
        error = json.loads(said.stdout)["error"]
        assert (error["kind"], error["exit_status"]) == ("interrupted", 130)
        assert f"distill: {error['message']}\n" in said.stderr


def as_json(verb):
    """The flag, where the verb has a result."""
    return [] if verb == "demo" else ["--json"]


DISK = {errno.ENOSPC: "disk is full", errno.EROFS: "read-only", errno.EACCES: "no permission", errno.EIO: "disk fails"}


@pytest.mark.parametrize(
    ("name", "code"), [*((name, errno.ENOSPC) for name in STOPPED), *(("list", code) for code in DISK)]
)
def test_a_disk_that_takes_no_more_is_an_error_for_people(runs, tmp_path, monkeypatch, name, code):
    words, inside, _ = STOPPED[name]
    out = [tmp_path / "o"] if words[-1] == "--out" else []
    monkeypatch.setattr(inside, raising(OSError(code, os.strerror(code), "some/file")))
    monkeypatch.setattr("distill.verbs.profile._found", lambda path: ([], path))
    said = distill(*words, *out, *as_json(name), cwd=runs)
    assert said.returncode == 1
    assert DISK[code] in said.stderr
    assert "'some/file'" in said.stderr
    if name != "demo":
        error = json.loads(said.stdout)["error"]
        assert (error["kind"], error["exit_status"]) == ("disk", 1)
        assert "'some/file'" in error["message"]


def test_an_error_of_no_disk_stays_itself():
    with pytest.raises(FileNotFoundError), ending_well():
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(Interrupted) as ended, ending_well(lambda: ["a", "b"], lambda: "Go on."):
        raise KeyboardInterrupt
    assert isinstance(ended.value, KeyboardInterrupt)  # nobody's `except Exception` swallows it
    assert str(ended.value) == "Interrupted. Kept: a, b. Go on."


def interrupt_when(process, ready, number=signal.SIGINT):
    """Ctrl-C, which a terminal sends to the process and to all its children; or another signal."""
    give_up = time.monotonic() + forks.PATIENCE_S
    while not ready():
        assert process.exitcode is None, "it ended before the moment of its interruption"
        assert time.monotonic() < give_up
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    process.join(forks.PATIENCE_S)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    return children


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_told_to_end_keeps_its_last_step(runs, tmp_path, number):
    """With workers, which get the signal too. No checkpoint is due for long."""
    out, log = tmp_path / "out", tmp_path / "log"
    words = [word if word != "set" else str(runs / "set") for word in TRAIN]
    process = forks.start(
        "train", *words, "--out", out, "--set", "train.steps=100000", "--set", "train.workers=1",
        "--set", "train.checkpoint_minutes=60", "--set", "train.log_every=1", log=log,
    )  # fmt: skip
    metrics = out / "metrics.jsonl"
    interrupt_when(process, lambda: metrics.exists() and metrics.read_text().count("\n") > 1, number)
    said = (tmp_path / "log.err").read_text()
    assert process.exitcode == 0, said
    assert "Traceback" not in said
    kept = re.search(r"Interrupted\. Kept: a checkpoint of the student at step (\d+) of 100000\.", said)
    assert kept, said
    assert int(kept[1]) == metrics.read_text().count("\n")  # the last step that was taken
    assert printed_command(said) == ["train", str(out), "--resume"]


def test_outside_of_trainings_sigterm_is_what_ctrl_c_is():
    """Once a `kill` in the middle of labelling or evaluation ended the program without a word."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with terminated_as_interrupted():
            child = os.fork()
            if not child:  # a process of a loader, say, which is ended by its parent
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == signal.SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with terminated_as_interrupted():
            os.kill(os.getpid(), signal.SIGTERM)  # whoever called us has a way of its own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.process
def test_ctrl_c_in_an_export_ends_the_converting_processes(runs, tmp_path):
    log = tmp_path / "log"
    process = forks.start("export", runs / "student", "--target", "onnx", log=log)
    children = interrupt_when(process, lambda: psutil.Process(process.pid).children())
    said = (tmp_path / "log.err").read_text()
    assert children
    assert process.exitcode == 130, said
    assert "Traceback" not in said
    assert "Interrupted. Nothing was finished yet." in said
    assert printed_command(said) == ["export", str(runs / "student"), "--resume"]
    assert not list((runs / "student" / "export").glob(".partial-*"))

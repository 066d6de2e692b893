"""Bad calls: one paragraph on stderr that says what to do, exit status 1 or 2, no traceback, nothing written; with --json the
same paragraph as one object on stdout."""

import errno
import json
import os
import subprocess
import sys

import pytest

from distill.core import atomic
from tests.command_line import distill


def process(*arguments, cwd, env=None):
    return subprocess.run(
        [sys.executable, "-m", "distill", *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_paragraph(result, status, *words):
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    message = [line for line in result.stderr.splitlines() if line.startswith("distill: ")]
    assert len(message) == 1
    for word in words:
        assert word in message[0]
    return message[0].removeprefix("distill: ")


def assert_error(result, kind):
    """The one object on stdout; returns its message."""
    error = json.loads(result.stdout)["error"]
    assert set(error) == {"message", "kind", "exit_status"}
    assert (error["kind"], error["exit_status"]) == (kind, result.returncode)
    return error["message"]


BAD = {
    "unknown teacher": (["run", "--teacher", "dfn-vitl41"], 2, ["dfn-vitl41", "dfn-vitl14"]),
    "unknown student": (["run", "--student", "mci22"], 2, ["mci22", "mci2"]),
    "unknown target": (["run", "--target", "coremll"], 2, ["coremll", "coreml"]),
    "unknown objective": (["run", "--set", "objective=clipp"], 2, ["clipp", "clip"]),
    "unknown key": (["run", "--set", "train.stepz=3"], 2, ["train.stepz", "steps"]),
    "unknown strategy": (["run", "--set", "student.inherit=magnitud"], 2, ["magnitud", "magnitude"]),
    "missing recipe": (["run", "--recipe", "nowhere.toml"], 2, ["nowhere.toml"]),
    "unreadable recipe": (["run", "--recipe", "bad.toml"], 2, ["bad.toml", "not valid TOML"]),
    "missing data folder": (["run", "--data", "./no-such-photos"], 2, ["no-such-photos"]),
    "empty data folder": (["run", "--data", "./empty"], 2, ["empty"]),
    "existing output": (["run", "--out", "taken"], 2, ["taken", "--resume", "--overwrite"]),
    "overwrite of what is no run": (["run", "--out", "taken", "--overwrite"], 2, ["taken", "not a run"]),
    "output is a file": (["run", "--out", "bad.toml"], 2, ["bad.toml", "file"]),
    "train without out": (["train"], 2, ["--out"]),
    "objective without teachers": (
        ["train", "--out", "o", "--set", "student.inherit=none", "--set", "limit=300"],
        2,
        ["reinforce", "clip"],
    ),
    "report of no run": (["report", "empty"], 2, ["empty", "resolved.json"]),
    "export of no run": (["export", "empty"], 2, ["student"]),
    "profile of no run": (["profile", "empty"], 2, ["export"]),
    "eval of nothing": (["eval", "no-such-model"], 2, ["no-such-model"]),
    "compare of one": (["compare", "empty"], 2, ["two"]),
    "unknown kind": (["list", "teacherz"], 2, ["teacherz", "teachers"]),
    "batch larger than the data": (["run", "--set", "limit=20"], 2, ["20", "train.batch_size"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls(name, tmp_path):
    arguments, status, words = BAD[name]
    (tmp_path / "bad.toml").write_text("a = = 1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    said = distill(*arguments, "--json", cwd=tmp_path)
    message = assert_paragraph(said, status, *words)
    assert assert_error(said, "output-exists" if name == "existing output" else "usage") == message
    left = [n for n in sorted(p.name for p in tmp_path.rglob("*")) if n not in before]
    assert left == []
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "years of work"


@pytest.mark.process
@pytest.mark.parametrize("name", ["unknown teacher", "missing data folder"])
def test_bad_calls_of_a_process_end_as_those_in_this_one(name, tmp_path):
    arguments, status, words = BAD[name]
    result = process(*arguments, cwd=tmp_path)
    assert_paragraph(result, status, *words)
    assert result.stdout == ""
    loading = "Loading PyTorch and what else is needed ...\n"  # said within a second, before the imports
    assert result.stderr == loading + distill(*arguments, cwd=tmp_path).stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--stpes", "3"],
        ["nope"],
        ["compare"],
        ["export", "x", "--batch", "many"],
        ["demo", "x"],
        ["list", "--set"],
    ],
)
def test_words_that_the_parser_refuses_are_one_object_too(words):
    said = distill(*words, "--json")
    assert said.returncode == 2
    assert assert_error(said, "usage") in said.stderr


def test_a_fault_of_ours_is_one_object_and_keeps_its_traceback(monkeypatch, capsys):
    def broken(*arguments):
        raise ZeroDivisionError("somewhere inside")

    monkeypatch.setattr("distill.verbs.listing.list_names", broken)
    monkeypatch.setattr(sys, "argv", ["distill", "list", "--json"])
    from distill.cli import main

    with pytest.raises(ZeroDivisionError):
        main()
    error = json.loads(capsys.readouterr().out)["error"]
    assert error == {"message": "ZeroDivisionError: somewhere inside", "kind": "internal", "exit_status": 1}


def test_a_number_that_is_none_is_null_in_json(capsys):
    from distill.cli.base import print_result
    from distill.verbs.results import Rows

    print_result(Rows([{"loss": float("nan"), "times": (1.5, float("inf")), "ok": True}]), True, print)
    assert json.loads(capsys.readouterr().out) == [{"loss": None, "times": [1.5, None], "ok": True}]


def test_an_environment_that_makes_no_sense_is_an_object_too(monkeypatch):
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "RANK" in assert_error(distill("list", "--json"), "usage")


def test_only_the_first_process_of_a_launcher_has_the_output(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = distill("list", "teacherz", "--json")
    assert (said.returncode, said.stdout) == (2, "")
    assert "teacherz" in said.stderr


@pytest.mark.process
def test_weights_that_are_not_here_are_refused_before_anything_is_written(tmp_path):
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    env.pop("DISTILL_WEIGHTS", None)
    result = process("run", "--teacher", "dfn-vitl14", "--student", "mci2", cwd=tmp_path, env=env)
    assert_paragraph(result, 1, "dfn-vitl14", "open_clip", "DISTILL_WEIGHTS", "--teacher")
    assert result.stdout == ""
    assert not (tmp_path / "runs").exists()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > 0 and "incomplete" in p.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_in_a_paragraph(tmp_path, monkeypatch, code):
    def full(*arguments, **options):
        raise OSError(code, "No space left on device", "x/shard")

    monkeypatch.setattr(os, "replace", full)
    assert_paragraph(distill("run", "--out", "o", "--set", "limit=300", cwd=tmp_path), 1, "disk is full", "--resume")


def test_a_disk_with_too_little_room_is_refused_at_the_start(tmp_path, monkeypatch):
    import shutil
    from types import SimpleNamespace

    from distill.core.errors import DistillError
    from distill.core.existing import Existing
    from distill.recipe import Recipe
    from distill.run_folder import RunFolder
    from distill.stages.opening import open_run

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    with pytest.raises(DistillError, match="Only 5 MB are free"):
        open_run(RunFolder(tmp_path / "o"), Recipe(), Existing.REFUSE)


def test_resume_with_other_settings_names_them(tmp_path):
    from distill.core.errors import UsageError
    from distill.core.existing import Existing
    from distill.recipe import load_recipe
    from distill.run_folder import RunFolder
    from distill.stages.opening import open_run

    open_run(RunFolder(tmp_path / "o"), load_recipe(None, []), Existing.REFUSE)
    open_run(RunFolder(tmp_path / "o"), load_recipe(None, ["profile.threads=2", "train.workers=1"]), Existing.RESUME)
    (tmp_path / "o" / "checkpoints" / "step-00000002").mkdir(parents=True)
    (tmp_path / "o" / "checkpoints" / "step-00000002" / "state.json").write_text("{}")
    with pytest.raises(UsageError, match=r"train\.lr"):
        open_run(RunFolder(tmp_path / "o"), load_recipe(None, ["train.lr=1e-5"]), Existing.RESUME)


def test_json_is_one_object_on_stdout_and_the_run_folder_names_its_versions(tmp_path):
    result = distill("list", "teachers", "--json", cwd=tmp_path)
    rows = json.loads(result.stdout)
    assert {"dfn-vitl14", "openai-vitb32", "siglip-b16", "rendered"} <= {row["name"] for row in rows}
    assert next(row for row in rows if row["name"] == "dfn-vitl14")["licence"]
    assert json.loads(distill("devices", "--json", cwd=tmp_path).stdout)[0]["kind"] == "host"
    assert all("name" in row for row in json.loads(distill("doctor", "--json", cwd=tmp_path).stdout))


@pytest.mark.process
def test_help_imports_nothing_heavy(tmp_path):
    script = (
        "import sys\nsys.argv = ['distill', {!r}, {!r}]\nimport distill.cli as c\n"
        "try:\n    c.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {{'torch', 'timm', 'open_clip', 'coremltools', 'executorch', 'datasets', 'numpy', 'pyarrow'}} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'list' in sys.argv or 'distill.recipe' not in sys.modules\n"  # half of what a help may take
    )
    for arguments in (("run", "--help"), ("list", "teachers"), ("list", "students")):
        subprocess.run([sys.executable, "-c", script.format(*arguments)], cwd=tmp_path, capture_output=True, check=True)


def test_the_lazy_python_api_has_every_verb():
    import distill as package

    for name in package.__all__:
        assert name in dir(package)
        assert callable(getattr(package, name)) or name == "__version__", name
    with pytest.raises(AttributeError, match="reinfroce"):
        package.reinfroce  # noqa: B018
    assert atomic.PARTIAL  # the module that all verbs write through

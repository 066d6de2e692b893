"""The package as users get it: a built wheel in an environment of its own, and the documents' own commands and scripts.

The environment finds the dependencies of the one that runs the tests, so that nothing is downloaded.
"""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.command_line import distill

pytestmark = pytest.mark.whole
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("distill", "export", "reinforced_data", "students", "teachers")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECORDED = "first_evening.md"  # what was printed, by a script that ran every line; its runs are not here
SCRIPT = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)[1]


def tracked(*places):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files", "-z", *places], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and the wheel of what git holds: (.tar.gz, .whl)."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    # Each setup call of the backend leaves its own sys.argv.
    backend = f"from setuptools import build_meta as b; b.build_sdist({str(out)!r}); b.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", backend], cwd=source, capture_output=True, check=True)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def in_folder(folder, *command):
    """A command of the other environment: nothing of this one's PYTHONPATH."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=clean, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The bin folder of a fresh environment with the wheel."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False)
    site = home / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    # A line of a .pth file is a folder to look in after this one; .pth files there (an editable install) are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # The other environment's copy, which is found through that line too, does not count as installed here.
    words = ["install", "-q", "--no-deps", "--no-index", "--force-reinstall"]
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", *words, built[1]]
    installed = in_folder(home, *pip)
    assert installed.returncode == 0, installed.stderr
    return home / "bin"


@pytest.fixture(scope="module")
def job(installed, tmp_path_factory):
    """The script of docs/python.md, run by the installed wheel in an empty folder: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("empty")
    done = in_folder(folder, installed / "python", "-W", "ignore", "-c", SCRIPT)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def test_sdist_and_wheel_hold_every_file_that_git_holds(built):
    names = set(tracked(*PACKAGES))
    assert len(names) > 200
    with tarfile.open(built[0]) as sdist, zipfile.ZipFile(built[1]) as wheel:
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
        in_wheel = set(wheel.namelist())
    assert names <= in_sdist
    assert names == {name for name in in_wheel if ".dist-info/" not in name}
    assert {f"{package}/py.typed" for package in PACKAGES} <= in_wheel


def test_the_installed_wheel_does_the_whole_job_from_an_empty_folder(job, installed):
    folder, said = job
    assert "128 images labelled" in said
    assert "64 of 128 kept" in said
    assert (folder / "runs/nano/report.html").is_file()
    assert (folder / "runs/nano/export/onnx-fp32/image.onnx").is_file()
    version = in_folder(folder, installed / "distill", "--version")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", version.stdout)


WRONG = {
    "distill.run(3, foo=1)": "call-arg",
    "distill.run(3)": "arg-type",
    "distill.reinforce(teacher='rendered')": "call-arg",  # nowhere to write to
    "distill.distil()": "attr-defined",
    "distill.run().table.nonsense": "attr-defined",
    "distill.load_student('runs/nano').encode_text('red')": "arg-type",
    "distill.train(out='o', resume='yes')": "arg-type",
}


# The calls below meet no type of these; reading them takes two thirds of a check.
UNREAD = (
    "timm", "onnx", "onnxscript", "onnx_ir", "huggingface_hub", "matplotlib", "rich", "markdown_it", "anyio", "httpx2", "httpcore2",
    "torch._inductor", "torch._dynamo", "torch._functorch", "torch._higher_order_ops", "torch._export", "torch.export",
    "torch.distributed", "torch.ao", "torch.fx", "torch.onnx",
)  # fmt: skip


def test_a_type_checker_sees_the_installed_package(installed, tmp_path):
    """The script of docs/python.md passes mypy --strict; each wrong call is an error of its own kind, and alone so."""
    (tmp_path / "right.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text("import distill\n" + "".join(f"{call}\n" for call in WRONG))
    unread = ",".join(f"{package}.*" for package in UNREAD)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n[mypy-{unread}]\nfollow_imports = skip\n")
    assert len(SCRIPT.splitlines()) >= 40
    checked = in_folder(
        tmp_path,
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        "mypy.ini",
        "--python-executable",
        installed / "python",
        "right.py",
        "wrong.py",
    )
    found = re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", checked.stdout, re.M)
    lines = [("wrong.py", str(number), code) for number, code in enumerate(WRONG.values(), 2)]
    assert {(file, line) for file, line, _ in found} == {(file, line) for file, line, _ in lines}, checked.stdout
    assert set(lines) <= set(found), checked.stdout


def test_a_folder_of_one_of_our_names_is_named_and_no_traceback_is_shown(installed, tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "__init__.py").write_text("raise SystemExit('not ours')\n")
    python, script = installed / "python", installed / "distill"
    hidden = in_folder(tmp_path, python, "-m", "distill", "list", "teachers")
    assert hidden.returncode == 2
    assert hidden.stdout == ""
    (message,) = hidden.stderr.splitlines()
    assert str(tmp_path / "export") in message
    assert "rename it" in message
    library = in_folder(tmp_path, python, "-c", "import distill")
    assert library.returncode == 1
    assert "ImportError: distill: 'export' is found at" in library.stderr
    # The console script does not look in the working directory, so there it works.
    assert in_folder(tmp_path, script, "list", "recipes").returncode == 0
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    assert in_folder(empty, python, "-m", "distill", "list", "recipes").returncode == 0


def commands():
    """Every `distill ...` line of README and docs, joined where a backslash says so, without its comment."""
    found = {}
    for page in PAGES:
        if page.name == RECORDED:
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?: {4})?(distill .*)$", text, re.M):
            found.setdefault(" ".join(shlex.split(line, comments=True)[1:]), shlex.split(line, comments=True)[1:])
    return list(found.values())


OFFLINE = {"devices", "doctor", "list", "eval", "profile", "report", "compare", "curate"}
NOT_HERE = "dfn-", "siglip", "openai-", "coca-", "sail", "mci", "datacompdr", "python:", "slurm", "flickr8k"


def runs_offline(words):
    """Whether a command needs nothing but the embedded models, a run and photos. mci0 is also a run's name in the pages."""
    if {"--runner", "web", "profile.apple_team=TEAM", "onnx-qnn"} & set(
        words
    ):  # a phone, a browser, another environment
        return False
    if words[0] in OFFLINE or words[:2] == ["export", "runs/mci0"]:
        return True
    return (
        not any(name in word for word in words for name in NOT_HERE)
        and words[0] in ("reinforce",)
        and "--resume" in words
    )


@pytest.fixture(scope="module")
def place(job, tmp_path_factory):
    """A folder with what the pages' commands name: photos, runs."""
    from reinforced_data.source import open_source

    folder = tmp_path_factory.mktemp("place")
    for name, made in {"a": "nano", "b": "nano", "mci0": "nano", "photos": "scenes", "scenes": "scenes"}.items():
        shutil.copytree(job[0] / "runs" / made, folder / "runs" / name)
    shutil.copytree(next((folder / "runs" / "mci0" / "export").glob("onnx-*")), folder / "onnx-fp32")
    (folder / "photos").mkdir()
    source = open_source("rendered:train=24,eval=4", "train")
    for index in range(24):
        (folder / "photos" / f"{index:02}.png").write_bytes(source[index].image)
        (folder / "photos" / f"{index:02}.txt").write_text(source[index].captions[0].text)
    return folder


@pytest.mark.parametrize("words", [words for words in commands() if runs_offline(words)], ids=" ".join)
def test_commands_of_the_pages_that_can_run_here_run(words, place):
    """Each as it stands, but for what only takes time: fewer timed calls, and one target of three."""
    less = {"export": ["--set", "export.targets=['onnx']"], "profile": ["--set", "profile.runs=3"]}
    done = distill(*words, *less.get(words[0], ()), cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_are_such_commands():
    assert sum(map(runs_offline, commands())) >= 8
    assert len(commands()) > 25


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_pages_is_understood(words, monkeypatch, tmp_path):
    """Flags are known, and the recipe, the models and the filters that they name exist."""
    from distill.models import CaptionerSet, TeacherSet, check_strategy, student_spec
    from distill.recipe import Recipe
    from distill.run_folder import RunFolder
    from distill.stages.opening import keep_recipe
    from distill.verbs import flags
    from export.target import chosen_targets
    from reinforced_data.curation.filter import parse_filter

    class Understood(Exception):
        pass

    def look(recipe: Recipe) -> Recipe:
        if not any(name.startswith("runs/") for name in recipe.teachers):
            TeacherSet(recipe.teachers, random_weights=True, seed=0)
        named = tuple(name for name in recipe.captioners if ":" not in name)
        CaptionerSet(named, recipe.reinforce.captioning, random_weights=True, seed=0)
        student_spec(recipe.student)
        check_strategy(recipe.student.inherit)
        chosen_targets(recipe.export.targets, recipe.export.precisions)
        for text in recipe.filters:
            parse_filter(text)
        raise Understood

    real = flags.load_recipe
    monkeypatch.setattr(flags, "load_recipe", lambda *given: look(real(*given)))
    if words[0] in ("list", "doctor", "devices", "compare", "report", "curate"):
        return  # they read no recipe, and run above
    if words[0] == "push":  # reads no recipe either, and needs a run
        assert "is not a run folder" in distill(*words, cwd=tmp_path).stderr
        return
    if "--resume" in words:  # which reads the recipe of the run that it names
        out = RunFolder(tmp_path / next(word for word in words if word.startswith("runs/")))
        out.path.mkdir(parents=True)
        keep_recipe(out, Recipe())
    for word in words:  # a checkpoint that someone has downloaded
        if word.endswith(".pt"):
            (tmp_path / word.rpartition("@")[2]).touch()
    with pytest.raises(Understood):
        distill(*words, cwd=tmp_path)


def test_imports_of_the_pages_snippets_exist():
    found = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```python\n(.*?)```", text, re.S):
            ast.parse(block)
        for module, names in re.findall(rf"^\s*from ((?:{'|'.join(PACKAGES)})[\w.]*) import ([\w, ]+)$", text, re.M):
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{page.name}: {module}.{name}"
                found += 1
    assert found > 4

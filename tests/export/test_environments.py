"""Environments: found, missing, outdated, broken, made at once or not at all, and used by a child that sees ours alone.

The environment here is real, and small: its one package is written by a stand-in for pip, and its torch is this Python's.
"""

import json
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from distill.core.errors import DistillError, UsageError
from distill.core.packages import install as installing
from distill.core.packages.environment import RECORD_FILE, Environment, environments_folder
from distill.core.packages.install import install
from distill.verbs.machine import doctor
from export.run import export_student
from export.settings import ExportSettings
from export.target import TARGETS, Target, get_target, package_name

LITE = Environment("fakelite", requirements=("fakelite>=1,<2",), modules=("fakelite",), gigabytes=0.001)

# The package, which brings a target as plugins do. It saves the program as it is, and notes whose Python did it.
PACKAGE = """
import importlib.util, json, sys
from distill.core.packages.environment import Environment
from export.artifacts.record import Operations
from export.target import TARGETS, Target

class Fakelite(Target):
    name, precisions, suffix, requires, runtime, package = "fakelite", ("fp32",), ".lite", {}, "Fakelite", "fakelite"
    environment = Environment("fakelite", ("fakelite>=1,<2",), ("fakelite",), 0.001)
    checked_by = "fakelite itself"

    def convert(self, program, tower, path, *, calibration=None):
        import torch
        torch.export.save(program, path)
        print("PYTHON", json.dumps([sys.prefix, sys.argv[0], importlib.util.find_spec("pydantic_of_the_parent") is None]))
        return Operations({"all": 1})

    def load(self, path, threads=1):
        import torch
        module = torch.export.load(path).module()
        return lambda value: module(torch.from_numpy(value)).detach().numpy()

TARGETS.register("fakelite")(Fakelite())
"""
# In place of pip: writes the package into the environment whose Python it is called with, or fails as pip does.
PIP = """
import pathlib, subprocess, sys
python, mains, *wanted = sys.argv[1:]
print("Collecting", *wanted)
if any("nowhere" in name for name in wanted):
    sys.exit("ERROR: No matching distribution found for nowhere")
code = "import sysconfig; print(sysconfig.get_path('purelib'))"
site = pathlib.Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
(site / "fakelite.py").touch()
(site / "fakelite_target.py").write_text(PACKAGE)
info = site / "fakelite-1.2.dist-info"
info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\\nName: Fakelite\\nVersion: 1.2\\n")
(info / "entry_points.txt").write_text("[distill.plugins]\\nfakelite = fakelite_target\\n")
(site / "torch_of_the_tests.pth").write_text(mains)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, and pip's stand-in."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(LITE.variable, raising=False)
    pip = tmp_path / "pip.py"
    pip.write_text(f"PACKAGE = {PACKAGE!r}\n{PIP}")
    mains = sysconfig.get_path("purelib")
    monkeypatch.setattr(
        installing, "installer", lambda python, log: [sys.executable, str(pip), str(python), mains]
    )  # fmt: skip
    return tmp_path / "cache" / "environments"


def made_by_hand(folder: Path, **changes: Any) -> Path:
    """An environment as `install` leaves one, with this Python in it."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(sys.executable)
    record = {
        "requirements": LITE.wanted(),
        "python": "bin/python",
        "python_version": "3.11.7",
        "versions": {"fakelite": "1.2"},
        "gigabytes": 0.5,
    }
    (folder / RECORD_FILE).write_text(json.dumps(record | changes))
    return folder


def test_what_is_there_is_found_by_its_record(cache: Path) -> None:
    folder = made_by_hand(cache / "fakelite")
    found = LITE.find()
    assert (found.python, found.versions, found.gigabytes) == (folder / "bin/python", {"fakelite": "1.2"}, 0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            None,
            r"there is none\. Run: distill doctor --install fakelite  \(about 0\.001 GB in .*DISTILL_PYTHON_FAKELITE=PATH",
        ),
        (
            {"requirements": ["torch==1.0"]},
            r"made with torch==1\.0, and torch==.*fakelite>=1,<2 is wanted now\. Run: distill",
        ),
        ({"python": "bin/none"}, r"has lost its Python .*Run: distill doctor --install fakelite"),
        ({"python": 3}, r"environment\.json cannot be read .*Run: distill"),
    ],
)
def test_what_is_absent_outdated_or_broken_says_so(cache: Path, change: dict[str, Any] | None, words: str) -> None:
    if change is not None:
        made_by_hand(cache / "fakelite", **change)
    with pytest.raises(DistillError, match=words):
        LITE.find()


def test_a_torch_of_another_version_is_outdated(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by_hand(cache / "fakelite")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.14.0+cpu")
    with pytest.raises(DistillError, match=r"torch==2\.14\.0, fakelite"):
        LITE.find()


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISTILL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environments_folder() == tmp_path / ".cache/distill/environments"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert environments_folder() == tmp_path / "xdg/distill/environments"
    monkeypatch.setenv("DISTILL_CACHE", "~/big")
    assert environments_folder() == tmp_path / "big/environments"


@pytest.mark.parametrize("requirement", ["a-b_c.d>=1,<2", "a-b_c.d==1", "a-b_c.d", "a-b_c.d[x]>1", "a-b_c.d ~= 3"])
def test_the_package_of_a_requirement(requirement: str) -> None:
    assert package_name(requirement) == "a-b_c.d"


@pytest.mark.process
def test_it_is_made_whole_or_not_at_all(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    found = install(LITE, said.append)
    assert said[0].startswith("fakelite: installing torch==")
    assert "(about 0.001 GB)" in said[0]
    assert "GB in" in said[1]
    assert found == LITE.find()
    assert found.versions["fakelite"] == "1.2"
    assert sorted(path.name for path in cache.iterdir()) == [".fakelite.lock", "fakelite", "fakelite.log"]
    prefix = subprocess.run([found.python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert prefix.stdout.strip() == str(
        cache / "fakelite"
    )  # of the name that it has now, not of the one it was made under
    said.clear()
    assert install(LITE, said.append) == found
    assert said == [f"fakelite: there already, {found.python}"]

    before = (cache / "fakelite" / RECORD_FILE).read_bytes()
    for wrong, words in [
        (
            Environment("fakelite", ("nowhere>=3",), (), 0.001),
            r"(?s)status 1.*No matching distribution.*fakelite\.log",
        ),
        (
            Environment("fakelite", ("other>=1",), ("no_such_module",), 0.001),
            "do not import: no_such_module: ModuleNotFound",
        ),
        (Environment("fakelite", ("other>=1",), (), 1e9), r"GB free.*DISTILL_CACHE"),
    ]:
        with pytest.raises(DistillError, match=words):
            install(wrong, said.append)
        assert (cache / "fakelite" / RECORD_FILE).read_bytes() == before  # the old one is as it was
        assert not list(cache.glob(".partial-*"))
    with FileLock(cache / ".fakelite.lock"), pytest.raises(DistillError, match="Another process is installing"):
        install(Environment("fakelite", ("other>=1",), (), 0.001), said.append)


@pytest.mark.process
def test_a_target_converts_and_runs_in_its_environment(
    cache: Path,
    student_dir: Path,
    pixels: np.ndarray,
    tokens: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scope: dict[str, Any] = {"TARGETS": TARGETS}
    list(TARGETS)
    monkeypatch.setattr(TARGETS, "_entries", dict(TARGETS._entries))
    exec(textwrap.dedent(PACKAGE), scope)
    target: Target = get_target("fakelite")
    settings = ExportSettings(targets=("fakelite",))
    arguments: dict[str, Any] = {
        "pixels": pixels[:2],
        "tokens": tokens[:2],
        "licence": "x",
        "provenance": {},
        "resume": False,
    }
    assert target.missing() == "distill doctor --install fakelite"
    assert "Run: distill doctor --install fakelite" in str(target.no_latency)  # of a folder copied from another machine
    with pytest.raises(DistillError, match="Run: distill doctor --install fakelite"):
        export_student(student_dir, tmp_path / "out", settings, **arguments)
    rows = {row["name"]: row for row in doctor(install="fakelite").rows}
    assert rows["target fakelite"]["ok"]
    assert f"fakelite 1.2 in {cache / 'fakelite'}" in rows["target fakelite"]["detail"]

    # A folder of packages on our path, as the project's own environment has: none of them may be seen over there.
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "pydantic_of_the_parent.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    artifacts = export_student(student_dir, tmp_path / "out", settings, **arguments)
    log = (tmp_path / "out/logs/fakelite-fp32.log").read_text()
    (noted,) = {line for line in log.splitlines() if line.startswith("PYTHON")}
    prefix, _, alone = json.loads(noted.removeprefix("PYTHON "))
    assert prefix == str(cache / "fakelite")
    assert alone
    for artifact in artifacts:
        assert artifact.parity.cosine_min == pytest.approx(1, abs=1e-6)
        assert artifact.versions["fakelite"] == "1.2"
    assert (target.package_version(), target.no_latency) == ("1.2", None)


@pytest.mark.process
def test_a_python_of_the_users_own(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(LITE.variable, str(tmp_path / "none"))
    with pytest.raises(DistillError, match="does not answer as a Python does"):
        LITE.find()
    monkeypatch.setenv(LITE.variable, sys.executable)
    with pytest.raises(
        DistillError, match=r"DISTILL_PYTHON_FAKELITE names .* lacks what 'fakelite' needs: fakelite: Module"
    ):
        install(LITE, print)
    own = Environment("fakelite", (), ("json",), 0.1).find()
    assert own.python == Path(sys.executable)
    assert "numpy" in own.versions


def test_only_targets_with_an_environment_are_installed(cache: Path) -> None:
    with pytest.raises(UsageError, match=r"'onnx' needs no environment of its own; those that do: .*litert"):
        doctor(install=["onnx"])
    with pytest.raises(UsageError, match="litert"):
        doctor(install=["litertx"])
    assert not cache.exists()


@pytest.mark.process
def test_the_guest_finds_ours_and_nothing_beside_it(tmp_path: Path, run_python: Callable[[str], str]) -> None:
    """As it is where the project is installed: our packages lie among those of another Python."""
    import export

    root = Path(export.__file__).parents[1]
    for name in ("distill", "export", "students", "teachers", "reinforced_data"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text("raise ImportError('the wrong numpy')")
    guest = (
        (root / "export/children/guest.py")
        .read_text()
        .replace("Path(__file__).resolve().parents[2]", f"Path({str(tmp_path)!r})")
    )
    (tmp_path / "guest.py").write_text(guest)
    (tmp_path / "job.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "guest.py"), "export.children.bench", str(tmp_path / "job.json")],
        capture_output=True, text=True, cwd=tmp_path.parent,
    )  # fmt: skip
    assert "KeyError" in done.stderr  # the job says nothing; it was read, with numpy imported

"""`install` makes an environment: a virtual environment of this Python, filled by pip, looked at, and only then given its name."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from distill.core import atomic
from distill.core.errors import DistillError
from distill.core.packages.environment import RECORD_FILE, Environment, Installed, own_environ, probe

ROOM = 1.6  # times what an environment takes: pip unpacks beside it


def install(environment: Environment, say: Callable[[str], None]) -> Installed:
    """Make the environment, or leave one that is as wanted. One that is there stays until its successor is whole.

    Args:
        say: is told what is installed where, how large it is, and when it is there.

    Raises:
        DistillError: too little room, another process installs it, pip fails (with its last lines and its log), or a
            module does not import afterwards. Nothing half-made is left.
    """
    try:
        found = environment.find()
    except DistillError:
        if os.environ.get(environment.variable):
            raise  # the user's own, which is not ours to make
    else:
        say(f"{environment.name}: there already, {found.python}")
        return found
    place = environment.folder
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place.with_name(f".{place.name}.lock"), timeout=0):
            _check_room(environment)
            wanted = environment.wanted()
            say(f"{environment.name}: installing {', '.join(wanted)} into {place} (about {environment.gigabytes:g} GB)")
            start = time.monotonic()
            with atomic.staged_dir(place) as folder:
                gigabytes = _fill(environment, folder, wanted)
    except Timeout:
        raise DistillError(
            f"Another process is installing {place}. Wait for it, then look with distill doctor."
        ) from None
    say(f"{environment.name}: {gigabytes:.1f} GB in {place}, made in {time.monotonic() - start:.0f} s")
    return environment.find()


def _check_room(environment: Environment) -> None:
    free, wanted = shutil.disk_usage(environment.folder.parent).free / 1e9, environment.gigabytes * ROOM
    if free < wanted:
        raise DistillError(
            f"{environment.folder.parent} has {free:.1f} GB free, and installing {environment.name!r} needs about "
            f"{wanted:.1f} GB. Free some, or set DISTILL_CACHE to a folder on a larger disk."
        )


def _fill(environment: Environment, folder: Path, wanted: list[str]) -> float:
    """Make the environment inside `folder`; returns its size in GB."""
    log_file = environment.folder.with_name(f"{environment.name}.log")
    with open(log_file, "wb") as log:
        _call([sys.executable, "-m", "venv", "--without-pip", str(folder)], log)
        python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        _call(installer(python, log) + wanted, log)
    probe.cache_clear()
    found = probe(python, environment.modules)
    if found["failed"]:
        why = "; ".join(f"{module}: {reason}" for module, reason in found["failed"].items())
        raise DistillError(
            f"The packages of {environment.name!r} are installed and do not import: {why}. See {log_file}."
        )
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    gigabytes = round(sum(path.stat().st_size for path in files) / 1e9, 2)
    record = {
        "requirements": wanted,
        "python": python.relative_to(folder).as_posix(),
        "python_version": found["python"],
        "versions": found["versions"],
        "gigabytes": gigabytes,
    }
    atomic.write_json(folder / RECORD_FILE, record)
    return gigabytes


def installer(python: Path, log: IO[bytes]) -> list[str]:
    """The command that installs the packages which follow it into the environment of `python`."""
    if importlib.util.find_spec("pip"):
        return [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--no-input",
            "--disable-pip-version-check",
        ]
    _call([str(python), "-m", "ensurepip"], log)  # this Python was made without pip, as uv makes them
    return [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]


def _call(command: list[str], log: IO[bytes]) -> None:
    done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=own_environ())
    if done.returncode:
        log.flush()
        lines = Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n  ".join([line for line in lines if line.strip()][-8:]) or "(it printed nothing)"
        raise DistillError(
            f"{' '.join(command[:4])} ... failed with status {done.returncode}. Its last lines:\n  {tail}\n"
            f"The whole log: {log.name}"
        )

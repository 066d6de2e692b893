"""`Environment`: what a target needs that this Python cannot hold, where that lies, and whether it is there.

Left out: making one (`distill.core.packages.install`). Imports no torch.
"""

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.errors import DistillError

CACHE_VARIABLE = "DISTILL_CACHE"
PYTHON_VARIABLE = "DISTILL_PYTHON_"  # followed by an environment's name in capitals: a Python of the user's own
RECORD_FILE = "environment.json"  # written last: an environment without it is not whole
PROBE = Path(__file__).with_name("probe.py")
PROBE_SECONDS = 300


@dataclass(frozen=True)
class Installed:
    """An environment that is there.

    Attributes:
        python: its interpreter.
        python_version: of the interpreter.
        versions: package -> version, lower case, of everything that is installed in it.
        gigabytes: on the disk; 0.0 for one of the user's own.
    """

    python: Path
    python_version: str
    versions: dict[str, str]
    gigabytes: float = 0.0


@dataclass(frozen=True)
class Environment:
    """A virtual environment in the user's cache, for one target.

    Attributes:
        name: the target's.
        requirements: packages with bounds, as pip takes them. torch is added at the version here, since the program that
            is handed over is read by the same version best.
        modules: what must be importable in it.
        gigabytes: about what it takes on the disk.
    """

    name: str
    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    gigabytes: float

    @property
    def folder(self) -> Path:
        """Where `distill doctor --install` puts it."""
        return environments_folder() / self.name

    @property
    def command(self) -> str:
        """What installs it."""
        return f"distill doctor --install {self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that names a Python of the user's own."""
        return PYTHON_VARIABLE + self.name.upper().replace("-", "_")

    def wanted(self) -> list[str]:
        """All that is installed, as pip takes it."""
        try:
            torch = importlib.metadata.version("torch").partition("+")[0]
        except importlib.metadata.PackageNotFoundError:  # the doctor looks at such a Python too
            return list(self.requirements)
        return [f"torch=={torch}", *self.requirements]

    def find(self) -> Installed:
        """The environment. Raises DistillError, with what makes it, where it is absent, broken or of other versions."""
        own = os.environ.get(self.variable)
        if own:
            return self._of_the_user(Path(own).expanduser())
        record_file = self.folder / RECORD_FILE
        again = f"Run: {self.command}"
        try:
            record = atomic.read_json(record_file)
            python = self.folder / record["python"]
            found = Installed(python, record["python_version"], record["versions"], record["gigabytes"])
            wanted = record["requirements"]
        except FileNotFoundError:
            raise DistillError(
                f"The target {self.name!r} works in a Python environment of its own, and there is none. {again}  "
                f"(about {self.gigabytes:g} GB in {self.folder}; or name a Python that has its packages: {self.variable}=PATH)"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DistillError(f"{record_file} cannot be read ({error}). {again}") from None
        if wanted != self.wanted():
            raise DistillError(
                f"The environment of the target {self.name!r} was made with {', '.join(wanted)}, and "
                f"{', '.join(self.wanted())} is wanted now. {again}"
            )
        if not os.access(python, os.X_OK):
            raise DistillError(
                f"The environment of the target {self.name!r} has lost its Python ({python} does not run). {again}"
            )
        return found

    def _of_the_user(self, python: Path) -> Installed:
        found = probe(python, self.modules)
        if found["failed"]:
            why = "; ".join(f"{module}: {reason}" for module, reason in found["failed"].items())
            raise DistillError(f"{self.variable} names {str(python)!r}, which lacks what {self.name!r} needs: {why}.")
        return Installed(python, found["python"], found["versions"])


def cache_folder() -> Path:
    """$DISTILL_CACHE, else distill/ in the user's cache folder: $XDG_CACHE_HOME, Library/Caches, LOCALAPPDATA or ~/.cache."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache and sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA")
    default = Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache").expanduser()
    return (Path(cache) if cache else default) / "distill"


def environments_folder() -> Path:
    """Where environments are made: a folder of the cache."""
    return cache_folder() / "environments"


@functools.cache
def probe(python: Path, modules: tuple[str, ...]) -> dict[str, Any]:
    """What `distill.core.packages.probe` says of an interpreter. Raises DistillError where it does not answer."""
    try:
        done = subprocess.run(
            [str(python), "-W", "ignore", str(PROBE), *modules],
            capture_output=True,
            timeout=PROBE_SECONDS,
            stdin=subprocess.DEVNULL,
            env=own_environ(),
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise DistillError(f"{str(python)!r} does not answer as a Python does: {error}.") from None
    return found


def own_environ() -> dict[str, str]:
    """The process's environment variables without those that put this Python's packages into another one."""
    mixing = ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in mixing} | {
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",
    }

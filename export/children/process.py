"""Child processes, of this Python or of an environment's: where they find our modules, how they end with us. Left out: what
they do.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from distill.core.errors import DistillError
from distill.core.packages.environment import own_environ

ROOT = Path(__file__).resolve().parents[2]  # the folder that holds `export`, wherever it is installed
GUEST = Path(__file__).with_name("guest.py")


def spawn(
    arguments: list[str], *, threads: int, log: IO[bytes], stdout: Any = None, python: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start `python arguments...`; standard error (and output, unless `stdout` is given) goes to `log`.

    The child's standard input is a pipe that we hold: it closes when we die, and the child then ends itself.

    Args:
        arguments: ["-m", MODULE, ...]; with our own Python, whatever it takes.
        python: the interpreter of an environment (distill.core.packages); None = our own. Of our Python's packages it sees
            ours alone.
    """
    if python is None:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-W", "ignore", *arguments]  # third parties' warnings; ours are raised, not warned
    else:
        assert arguments[0] == "-m"
        environ = own_environ()
        command = [str(python), "-W", "ignore", str(GUEST), *arguments[1:]]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=stdout or log,
        stderr=log,
        env=environ
        | {
            "PYTHONHASHSEED": "0",  # converters iterate over sets of names; the order must not change from run to run
            "PYTHONUNBUFFERED": "1",
            "PYTHONSAFEPATH": "1",  # an attr.py in the user's folder must not stand in for the package attr (Python >= 3.11)
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        },
    )


def failure(what: str, status: int | None, log_file: Path) -> DistillError:
    """The error for a child that failed: the last lines of its output and where the rest is."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines() if log_file.exists() else []
    tail = "\n  ".join(line for line in lines[-8:] if line.strip()) or "(it printed nothing)"
    how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
    return DistillError(f"{what} failed ({how}). Its last lines:\n  {tail}\nThe whole log: {log_file}")

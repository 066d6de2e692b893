"""Child processes of our own interpreter: where they find our modules, how they end with us. Left out: what they do."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from distill.core.errors import DistillError

ROOT = Path(__file__).resolve().parents[2]  # the folder that holds `export`, wherever it is installed


def spawn(arguments: list[str], *, threads: int, log: IO[bytes], stdout: Any = None) -> "subprocess.Popen[bytes]":
    """Start `python arguments...`; standard error (and output, unless `stdout` is given) goes to `log`.

    The child's standard input is a pipe that we hold: it closes when we die, and the child then ends itself.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": "0",  # sets of names are iterated by converters; the order must not change from run to run
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # an attr.py in the user's folder must not stand in for the package attr (Python >= 3.11)
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],  # third parties' warnings; ours are raised, not warned
        stdin=subprocess.PIPE,
        stdout=stdout or log,
        stderr=log,
        env=environment,
    )


def failure(what: str, status: int | None, log_file: Path) -> DistillError:
    """The error for a child that failed: the last lines of its output and where the rest is."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines() if log_file.exists() else []
    tail = "\n  ".join(line for line in lines[-8:] if line.strip()) or "(it printed nothing)"
    how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
    return DistillError(f"{what} failed ({how}). Its last lines:\n  {tail}\nThe whole log: {log_file}")

"""The command line called in this process: a subprocess would spend its time on importing torch anew."""

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Called:
    """What a call left, under the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def distill(*arguments: object, cwd: Path | None = None) -> Called:
    """`distill ARGUMENTS` in the folder `cwd`. An exception that the command line lets through is a failure of the test."""
    from distill.cli import main

    said, warned = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(warned):
        patch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        patch.chdir(cwd or os.getcwd())
        with pytest.raises(SystemExit) as ended:
            main()
    status = ended.value.code or 0
    assert isinstance(status, int), status
    return Called(status, said.getvalue(), warned.getvalue())

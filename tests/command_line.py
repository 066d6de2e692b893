"""The command line called in this process: a subprocess would spend its time on importing torch anew."""

import io
import os
import pty
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest


@dataclass(frozen=True)
class Called:
    """What a call left, under the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def distill(*arguments: object, cwd: Path | None = None) -> Called:
    """`distill ARGUMENTS` in the folder `cwd`. An exception that the command line lets through is a failure of the test."""
    said, warned = io.StringIO(), io.StringIO()
    status = _main(arguments, cwd, said, warned)
    return Called(status, said.getvalue(), warned.getvalue())


@contextmanager
def terminal(columns: int) -> Iterator[tuple[TextIO, Callable[[], str]]]:
    """A terminal of so many columns: a file that writes to it, and a function that closes it and returns all it was sent."""
    ours, theirs = pty.openpty()
    sent: list[bytes] = []

    def read() -> None:
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # how a terminal says that nobody writes to it any more
                return
            sent.append(more)

    reader = threading.Thread(target=read)
    reader.start()
    screen = os.fdopen(theirs, "w", encoding="utf-8")

    def close() -> str:
        if not screen.closed:
            screen.close()
        reader.join()
        return b"".join(sent).decode().replace("\r\n", "\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm")
        yield screen, close
    close()
    os.close(ours)


def on_terminal(columns: int, *arguments: object, cwd: Path | None = None) -> Called:
    """`distill ARGUMENTS` with a terminal of so many columns as its standard output and error, which come out as one text.

    The text is what the terminal was sent, the control sequences included.
    """
    with terminal(columns) as (screen, close):
        status = _main(arguments, cwd, screen, screen)
        return Called(status, close(), "")


def _main(arguments: tuple[object, ...], cwd: Path | None, said: TextIO, warned: TextIO) -> int:
    from distill.cli import main

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(warned):
        patch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        patch.chdir(cwd or os.getcwd())
        with pytest.raises(SystemExit) as ended:
            main()
    status = ended.value.code or 0
    assert isinstance(status, int), status
    return status

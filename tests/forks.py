"""The command line in processes of its own, forked from a server that has imported torch once: they begin at once."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

PATIENCE_S = 300
Environment = dict[str, str | None]  # variables to set or, with None, to remove


def start(*arguments: object, log: Path, environment: Environment | None = None) -> BaseProcess:
    """Start `distill ARGUMENTS` in a session of its own; standard output goes to `log`, standard error to `log`.err."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forks_preload"])
    process = context.Process(target=_main, args=([*map(str, arguments)], str(log), environment or {}))
    process.start()
    return process


def _main(arguments: list[str], log: str, environment: Environment) -> None:
    os.setsid()
    # A shell's background jobs, and all below them, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for number, path in ((1, log), (2, f"{log}.err")):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["distill", *arguments]
    from distill.cli import main

    main()


def kill_when(process: BaseProcess, ready: Callable[[], bool]) -> None:
    """Kill the process and all its children as soon as `ready()`. It must not have ended before."""
    give_up = time.monotonic() + PATIENCE_S
    while not ready():
        assert process.exitcode is None, "it ended before the moment of its kill"
        assert time.monotonic() < give_up, "the moment of the kill never came"
        time.sleep(0.01)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def finish(process: BaseProcess, log: Path) -> str:
    """Wait for the process, which must end well, and return its standard output."""
    process.join(PATIENCE_S)
    if process.exitcode is None:
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"it did not end within {PATIENCE_S} s")
    assert process.exitcode == 0, log.with_name(f"{log.name}.err").read_text()[-3000:]
    return log.read_text()

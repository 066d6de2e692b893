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


def start(*arguments: object, log: Path, environment: "dict[str, str | None] | None" = None) -> BaseProcess:
    """Start `distill ARGUMENTS` in a session of its own; what it prints goes to `log`.

    Args:
        environment: variables to set, or with None to remove, before it begins.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forks_preload"])
    process = context.Process(target=_main, args=([*map(str, arguments)], str(log), environment or {}))
    process.start()
    return process


def _main(arguments: list[str], log: str, environment: "dict[str, str | None]") -> None:
    os.setsid()
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
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


def wait(process: BaseProcess) -> int:
    """The process's exit status."""
    process.join(PATIENCE_S)
    if process.exitcode is None:
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"it did not end within {PATIENCE_S} s")
    return process.exitcode

"""One process at a time works in a folder: who does, since when, under which process id.

The holder is a small file in the folder. Its process is looked for before it is believed, so that one that was killed
blocks nobody. Another machine's processes cannot be looked for: they touch the file while they live, and one that has not
been touched for a while is nobody's (a preempted job goes on elsewhere). Locks of the operating system are not used for the
whole time, because forked workers that outlive a killed run would keep them.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.errors import DistillError

LOCK_FILE = ".lock"
_GUARD = ".lock.guard"  # held for the milliseconds in which the holder changes
_GUARD_S = 30.0
_BEAT_S, _SILENT_S = 20.0, 90.0
_SAME_START_S = 5.0  # a process that began at another time has only been given the number of the one that is gone


_held: set[Path] = set()


class BusyError(DistillError):
    """Another process works in the folder."""

    kind = "busy"


@contextlib.contextmanager
def working_in(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder `folder`, which is made where it is missing, for the work inside. `what`: words for the message.

    Raises BusyError when another process, or another thread of this one, works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    take(folder, what)
    try:
        yield
    finally:
        leave(folder)


def take(folder: Path, what: str) -> None:
    """Hold an existing folder until `leave`, or until this process is gone. Raises BusyError when another works there."""
    with _guard(folder):
        refuse_busy(folder)
        atomic.write_json(
            folder / LOCK_FILE, {**_this_process(), "since": time.strftime("%d %B, %H:%M:%S"), "what": what}
        )


def leave(folder: Path) -> None:
    """Give back a folder that this process holds; nothing happens where it holds none."""
    _held.discard(folder)
    holder = _holder(folder)
    if holder is not None and _is_this_process(holder):
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink()


def refuse_busy(folder: Path) -> None:
    """Raise BusyError when a process works in the folder."""
    holder = _holder(folder)
    if holder is None or not _lives(holder, folder):
        return
    here = holder["host"] == socket.gethostname()
    raise BusyError(
        f"{holder['what']} is at work in {str(folder)!r} since {holder['since']}, as process {holder['pid']} on "
        f"{holder['host']}. Wait for it or end it, then call again."
        + ("" if here else f" If it is gone from that machine, this takes {_SILENT_S:.0f} s to show.")
    )


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / _GUARD, timeout=_GUARD_S):
            try:
                yield
            finally:
                with contextlib.suppress(
                    OSError
                ):  # filelock notices that a file it waited for is gone, and opens it anew
                    (folder / _GUARD).unlink()
    except Timeout:
        raise BusyError(
            f"Another process has been opening {str(folder)!r} for {_GUARD_S:.0f} s. End it, then call again."
        ) from None


def _holder(folder: Path) -> dict[str, Any] | None:
    """What the folder's lock says; None where there is none or it cannot be read."""
    try:
        holder = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
        return holder if {"host", "pid", "started", "since", "what"} <= holder.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _this_process() -> dict[str, Any]:
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _is_this_process(holder: dict[str, Any]) -> bool:
    return (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())


def _lives(holder: dict[str, Any], folder: Path) -> bool:
    """Whether the process of a folder's lock is there; of another machine's, whether it has touched the lock lately."""
    if holder["host"] != socket.gethostname():
        with contextlib.suppress(OSError):
            return time.time() - (folder / LOCK_FILE).stat().st_mtime < _SILENT_S
        return False
    import psutil

    try:
        process = psutil.Process(int(holder["pid"]))
        ended = process.status() == psutil.STATUS_ZOMBIE
        return not ended and abs(process.create_time() - float(holder["started"])) < _SAME_START_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # not ours to look at, so it is there
        return True


def _beat() -> None:
    """Touch what this process holds, until it holds nothing."""
    while _held:
        time.sleep(_BEAT_S)
        for folder in tuple(_held):
            with contextlib.suppress(OSError):
                os.utime(folder / LOCK_FILE)

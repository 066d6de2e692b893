"""What a person sees while work goes on: stages with their seconds, progress on a terminal, plain lines otherwise.

Everything goes to stderr, so that stdout holds the result alone (`--json` included); a run also keeps it in log.txt.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from distill.core.progress import Progress
from distill.processes import this_place

PLAIN_EVERY_S = 10.0


class Console:
    """Prints to stderr and, once `log_to` was called, to a log file.

    Attributes:
        seconds: stage name -> seconds it took, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._log: Path | None = None
        self._unlogged: list[str] = []  # said before there was a log
        rank = this_place().rank
        self._speaker = f"process {rank}: " if rank else ""  # of several that share a job; the first needs no name

    def log_to(self, path: Path) -> None:
        """Append to `path` everything said from now on, and what was said before any log was named."""
        self._log = path
        for line in self._unlogged:
            self._write(line)
        self._unlogged.clear()

    def say(self, text: str) -> None:
        """One line."""
        print(self._speaker + text, file=sys.stderr, flush=True)
        line = time.strftime("%Y-%m-%d %H:%M:%S ") + text + "\n"
        if self._log is None:
            self._unlogged.append(line)
        else:
            self._write(line)

    def _write(self, line: str) -> None:
        assert self._log is not None
        with open(self._log, "a", encoding="utf-8") as file:
            file.write(line)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Time a stage; yields advance(done, total, note) for progress inside it."""
        started = time.perf_counter()
        with _bar(name) if sys.stderr.isatty() else _lines(name, self.say) as advance:
            yield advance
        self.seconds[name] = time.perf_counter() - started
        self.say(f"{name}: done in {self.seconds[name]:.1f} s")


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    import rich.console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, TextColumn("{task.fields[note]}"), console=rich.console.Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(name, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield advance


@contextlib.contextmanager
def _lines(name: str, say: Callable[[str], None]) -> Iterator[Progress]:
    said = time.perf_counter()

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal said
        if time.perf_counter() - said > PLAIN_EVERY_S:
            said = time.perf_counter()
            say(f"{name}: {done}/{total} {note}".rstrip())

    yield advance

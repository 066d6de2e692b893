"""What a person sees while work goes on: stages with their seconds, progress on a terminal, plain lines otherwise.

Everything goes to stderr, so that stdout holds the result alone (`--json` included); a run also keeps it in log.txt.
"""

import contextlib
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distill.core.progress import Progress
from distill.processes import this_place

PLAIN_EVERY_S = 10.0


class Console:
    """Prints to stderr and, once `log_to` was called, to a log file.

    Args:
        to: takes the lines in place of stderr, where another process has the terminal.

    Attributes:
        seconds: stage name -> seconds it took, in order.
    """

    def __init__(self, to: Callable[[str], None] | None = None) -> None:
        self._to = to
        self.seconds: dict[str, float] = {}
        self._plan: list[str] = []
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

    def plan(self, stages: Sequence[str]) -> None:
        """The stages to come, in order, so that each says its place among them; what is finished already is passed over."""
        self._plan = list(dict.fromkeys(stages))

    def _placed(self, name: str) -> str:
        return f"[{self._plan.index(name) + 1}/{len(self._plan)}] {name}" if name in self._plan else name

    def say(self, text: str) -> None:
        """One line; on a terminal as many as it takes, each of whole words."""
        if self._to is not None:
            self._to(text)
        else:
            print(_folded(self._speaker + text), file=sys.stderr, flush=True)
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
        started, placed = time.perf_counter(), self._placed(name)
        with _bar(placed) if self._to is None and sys.stderr.isatty() else _lines(placed, self.say) as advance:
            yield advance
        self.seconds[name] = time.perf_counter() - started
        self.say(f"{placed}: done in {self.seconds[name]:.1f} s")


def _folded(text: str) -> str:
    if not sys.stderr.isatty():
        return text
    lines = [
        textwrap.fill(line, shutil.get_terminal_size().columns, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """One line: the stage, how far it is and the time left where that is known, else the time so far; and a note."""
    import rich.console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Elapsed(TimeElapsedColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total is None else Text("")

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[place]}"))
    with Progress(
        *columns, Elapsed(), TextColumn("{task.fields[note]}"), console=rich.console.Console(stderr=True), transient=True
    ) as bar:  # fmt: skip
        task, begun = bar.add_task(escape(name), total=None, place="", note=""), time.perf_counter()

        def advance(done: int, total: int, note: str = "") -> None:
            place = _place(done, total, time.perf_counter() - begun)
            bar.update(task, completed=done, total=total, place=place, note=escape(note))

        yield advance


def _place(done: int, total: int, seconds: float) -> str:
    """ "12/40, 0:35 left": the time by the pace so far, none before the first is done and after the last."""
    place = f"{done}/{total}"
    if not 0 < done < total:
        return place
    left = round(seconds * (total - done) / done)
    hours, minutes = divmod(left // 60, 60)
    return f"{place}, {f'{hours}:{minutes:02}' if hours else minutes}:{left % 60:02} left"


@contextlib.contextmanager
def _lines(name: str, say: Callable[[str], None]) -> Iterator[Progress]:
    begun = said = time.perf_counter()

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said > PLAIN_EVERY_S:
            said = now
            say(f"{name}: {_place(done, total, now - begun)} {note}".rstrip())

    yield advance

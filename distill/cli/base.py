"""What all verbs share: the program, how it ends when a verb cannot go on, how a result is printed.

stdout holds the result (a table, or one JSON object with --json; then a failure is one too, {"error": ...}); stages and
progress go to stderr. Exit status: 0 done, 1 the work failed (a gate included), 2 the call was wrong, 130 interrupted
(Ctrl-C, SIGTERM; 0 where a training saved its last step). Nothing heavy is imported before a verb needs it.
"""

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

INTERRUPTED = 130  # as a shell counts a program that Ctrl-C has ended
_WrongWords: Any = typer.BadParameter.__base__  # what the parser raises for any call that it cannot read


class _Verbs(TyperGroup):
    """The verbs, whose mistakes and interruptions end in a paragraph and an exit status, never in a traceback.

    With --json the paragraph is on stdout too, as one object: {"error": {"message", "kind", "exit_status"}}.
    """

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Read the words before the verb."""
        self._as_json = "--json" in args  # asked of the words: they may be wrong in any other way
        with self._ending_well():
            return super().make_context(info_name, args, parent, **extra)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every verb with its whole sentence: the parser's own list cuts what does not fit a line."""
        verbs = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, str(verb.help).partition("\n\n")[0]) for name, verb in verbs if verb is not None]
            )

    def invoke(self, ctx: Any) -> Any:
        """Read the words after the verb and call it. Here, since typer ends a program by Ctrl-C without a word of ours."""
        with self._ending_well(), terminated_as_interrupted():
            return super().invoke(ctx)

    @contextmanager
    def _ending_well(self) -> Iterator[None]:
        from distill.core.errors import DiskError, DistillError
        from distill.core.folders.disk import disk_message

        try:
            yield
        except (typer.Exit, typer.Abort):
            raise  # how the parser ends well: after --version, and where a verb has said its status
        except DistillError as error:
            self._end(str(error), error.kind, error.exit_status)
        except KeyboardInterrupt as error:
            message = str(error) or "Interrupted. Nothing was left half done: call again to do it."
            self._end(message, "interrupted", getattr(error, "exit_status", INTERRUPTED))
        except OSError as error:
            message = disk_message(error)
            if not message:
                self._print_error(f"{type(error).__name__}: {error}", "internal", 1)
                raise
            self._end(f"{message} Then call again.", DiskError.kind, DiskError.exit_status)
        except _WrongWords as error:
            self._print_error(error.format_message(), "usage", error.exit_code)
            raise  # the parser shows it
        except Exception as error:
            if isinstance(error, RuntimeError) and "home directory" in str(error):  # how pathlib says it of any path
                self._end("A path begins with ~NAME, and no user here is called NAME. Write it out.", "usage", 2)
            self._print_error(f"{type(error).__name__}: {error}", "internal", 1)
            raise  # a fault of ours: with its traceback

    def _end(self, message: str, kind: str, status: int) -> NoReturn:
        print(f"distill: {message}", file=sys.stderr)
        self._print_error(message, kind, status)
        sys.exit(status)

    def _print_error(self, message: str, kind: str, status: int) -> None:
        from distill.core.errors import UsageError
        from distill.processes import this_place

        try:
            first = this_place().rank == 0
        except UsageError:  # the environment makes no sense, which is what this error may be about
            first = True
        if self._as_json and first:
            print(_as_json({"error": {"message": message, "kind": kind, "exit_status": status}}))


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM (of a cluster, a container, `kill`) is what Ctrl-C is: the verb says what is kept and how to go on, and ends
    the processes that it started. A training takes both for itself; forked processes keep their own way, as does a caller that
    has a handler already.
    """
    own = os.getpid()

    def interrupt(number: int, frame: Any) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.default_int_handler(number, frame)

    usual = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if usual:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turns big CLIP teachers into small image-text models that run on a phone, and proves that they still work there.",
)


def _print_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        print(importlib.metadata.version("distill-edge"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run_folder(named: Path | None, out: Path | None, *, goes_on: bool) -> Path | None:
    """The run folder of a call: what --out says, or the word that stands alone, where the call goes on with a run."""
    from distill.core.errors import UsageError

    if named is not None and not goes_on:
        raise UsageError(
            f"What is {str(named)!r}? A run to go on with: add --resume. Data: --data {named}. A new run: --out {named}."
        )
    if named is not None and out is not None and named != out:
        raise UsageError(f"Two run folders are named, {str(named)!r} and --out {str(out)!r}. Say one.")
    return named or out


def need(out: Path | None, example: str) -> Path:
    """The folder to write. Raises UsageError, with an example, where none is named."""
    from distill.core.errors import UsageError

    if out is None:
        raise UsageError(f"--out is missing: name the folder to write, for example --out {example}.")
    return out


def print_result(result: Any, as_json: bool, show: Callable[[Any], None], *, every_process: bool = False) -> None:
    """The result on stdout; of a launcher's processes only the first one's, unless each has one of its own."""
    from distill.processes import this_place

    if this_place().rank and not every_process:
        return
    if as_json:
        print(_as_json(result.to_json()))
    else:
        show(result)


def _as_json(value: Any) -> str:
    """One line of JSON as the standard has it: a number that is none (NaN, infinite) is null."""
    return json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value

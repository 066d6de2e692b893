"""How a verb ends when it cannot go on (Ctrl-C, a disk that takes no more, a loss that is not finite): what it kept, and
the command that goes on.
"""

import contextlib
from collections.abc import Callable, Iterator

from distill.core.errors import DiskError, Interrupted, LossError
from distill.core.folders.disk import disk_message
from distill.core.folders.lock import leave
from distill.learning.loop.stopping import Saved
from distill.processes import this_place
from distill.run_folder import RunFolder

SAME_CALL = "Call again to do it."


@contextlib.contextmanager
def ending_well(
    kept: Callable[[], list[str]] = list, go_on: Callable[[], str] = lambda: SAME_CALL, place: str = ""
) -> Iterator[None]:
    """What stops the work inside comes out with what was kept and how to go on.

    Args:
        kept: what is finished by then, a few words each.
        go_on: a sentence about how to go on.
        place: that the work writes to.

    Raises:
        Interrupted: for KeyboardInterrupt, with status 0 where a training has saved its last step.
        DiskError: for what a disk refuses.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        status = {"exit_status": 0} if isinstance(error, Saved) else {}
        raise Interrupted(f"Interrupted. {_kept(kept())} {go_on()}", **status) from None
    except OSError as error:
        message = disk_message(error, place)
        if not message:
            raise
        raise DiskError(f"{message} {_kept(kept())} {go_on()}") from error


@contextlib.contextmanager
def going_on(run: RunFolder) -> Iterator[None]:
    """`ending_well` for the verbs that work in a run folder and resume: run, train, reinforce."""
    with ending_well(run.kept, lambda: _command(run), str(run)):
        try:
            yield
        except LossError as error:
            from distill.stages.training.stops import advice

            raise LossError(f"{error} {advice(run)}", error.step) from error
        finally:
            leave(run.path)


def another_threshold(command: str) -> str:
    """How to go on after files that did not pass, or could not be made: the same call would fail again."""
    return f"To go on with other targets or another threshold: {command} and --target or --set export.min_cosine."


def _kept(found: list[str]) -> str:
    return f"Kept: {', '.join(found)}." if found else "Nothing was finished yet."


def _command(run: RunFolder) -> str:
    if this_place().world > 1 or not run.resolved.exists():
        return "Go on by the same command with --resume."
    return f"Go on by: {run.command()}"

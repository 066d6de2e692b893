"""How a verb ends when it cannot go on (Ctrl-C, a disk that takes no more, a loss that is not finite): what it kept, and
the command that goes on.
"""

import contextlib
from collections.abc import Callable, Iterator

from distill.core import atomic
from distill.core.errors import DiskError, Interrupted, LossError
from distill.core.folders.disk import disk_message
from distill.core.folders.lock import leave
from distill.learning.loop.stopping import Saved
from distill.processes import this_place
from distill.run_folder import RunFolder
from export.artifact import ARTIFACT_FILE
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE, SELECTION_FILE, SHARD_GLOB

SAME_CALL = "Call again to do it."
_ARMS = ("the student", "the plain student", "the student from a random start", "the student without a teacher")


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
    with ending_well(lambda: kept_in(run), lambda: _command(run), str(run)):
        try:
            yield
        except LossError as error:
            from distill.stages.training.stops import advice

            raise LossError(f"{error} {advice(run)}", error.step) from error
        finally:
            leave(run.path)


def kept_in(run: RunFolder) -> list[str]:
    """What is finished in a run folder, whatever it is in the middle of."""
    found = []
    if (run.reinforced / MANIFEST_FILE).exists():
        found.append("the reinforced set")
    elif shards := len(list(run.reinforced.glob(SHARD_GLOB))):
        plan = atomic.read_json(run.reinforced / PLAN_FILE)
        found.append(f"{shards} of {-(-plan['source']['samples'] // plan['shard_size'])} shards of the reinforced set")
    if (run.selection / SELECTION_FILE).exists():
        found.append("the selection")
    for name, arm in zip(_ARMS, run.arms(), strict=True):
        steps = [int(file.parent.name.rpartition("-")[2]) for file in arm.checkpoints.glob("step-*/state.json")]
        if arm.student.exists() or arm.teacher.exists():
            found.append(name if arm.student.exists() else "the heads")
        elif steps:
            found.append(f"a checkpoint of {name} at step {max(steps)} of {run.read_recipe().train.steps}")
    if figures := len(list(run.eval.glob("*.json"))):
        found.append(f"the figures of {figures} model{'s' if figures > 1 else ''}")
    return [*found, *exported_in(run)]


def exported_in(run: RunFolder) -> list[str]:
    """The folders of finished exports, by name; whether the files are still good is not looked at."""
    return [f"export/{file.parent.name}" for file in sorted(run.export.glob(f"*/{ARTIFACT_FILE}"))]


def _kept(found: list[str]) -> str:
    return f"Kept: {', '.join(found)}." if found else "Nothing was finished yet."


def _command(run: RunFolder) -> str:
    if this_place().world > 1 or not run.resolved.exists():
        return "Go on by the same command with --resume."
    return f"Go on by: {run.command()}"

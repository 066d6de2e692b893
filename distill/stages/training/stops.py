"""Trainings that stopped because their loss was not finite: kept in stopped.json, and how a resume goes on from there.

Another learning rate makes another training, so a resume refuses it; but after such a stop there is no other way. The
settings named here may then change, for the students that are not finished; the stop stays in the run, the student's card
and the report. Training goes on from the newest checkpoint where that is better than the start, else it begins anew.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from typing import Any

from distill.core import atomic
from distill.core.errors import LossError
from distill.learning.settings import OptimSettings
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from students.spec import STUDENTS

NAMES = ("lr", "lr_floor", "warmup_steps", "weight_decay", "beta1", "beta2", "clip_norm", "precision")
MENDING = tuple(f"train.{name}" for name in NAMES)
_FAR_ABOVE = 3.0  # times a rate that is known to work


def read_stops(run: RunFolder) -> list[dict[str, Any]]:
    """The stops of one training, oldest first: step, why, settings, checkpoint (step of the newest one; 0 = none)."""
    return list(atomic.read_json(run.stopped)) if run.stopped.exists() else []


def unfinished_stops(run: RunFolder) -> list[RunFolder]:
    """The trainings of a run (the student's, the plain one's, ...) that stopped and have not been finished since."""
    return [arm for arm in run.arms() if arm.stopped.exists() and not (arm.student.exists() or arm.teacher.exists())]


@contextlib.contextmanager
def noting_stops(run: RunFolder, settings: OptimSettings) -> Iterator[None]:
    """Keep in stopped.json that the training inside stopped, under which settings and with which checkpoint."""
    try:
        yield
    except LossError as error:
        from distill.learning.checkpoint import latest

        found = latest(run.checkpoints)
        values = {name: getattr(settings, name) for name in NAMES}
        stop = {
            "step": error.step, "why": str(error), "settings": values, "checkpoint": found.step if found else 0
        }  # fmt: skip
        before = read_stops(run)
        if stop not in before:
            atomic.write_json(run.stopped, [*before, stop], shared=True)  # any of several processes may see it
        raise


def goes_on_from(run: RunFolder) -> tuple[int, str]:
    """The step that a training which stopped goes on from under other settings, and why not from its newest checkpoint.

    Not from one whose loss is no lower than the first step's, nor from one that other settings have stopped at before.
    """
    from distill.learning.checkpoint import latest

    found = latest(run.checkpoints)
    if found is None:
        return 0, ""
    losses = found.losses
    if not losses.get("last", float("inf")) < losses.get("first", float("inf")):
        return 0, f"the loss at the checkpoint of step {found.step} is no lower than at the start"
    tried = {json.dumps(stop["settings"]) for stop in read_stops(run) if stop["checkpoint"] == found.step}
    if len(tried) > 1:
        return 0, f"{len(tried)} settings have failed from the checkpoint of step {found.step}"
    return found.step, ""


def prepare_to_go_on(run: RunFolder) -> None:
    """Remove the checkpoints that trainings under other settings would better not go on from. The first process alone."""
    for arm in unfinished_stops(run):
        if goes_on_from(arm)[0] == 0 and arm.checkpoints.exists():
            shutil.rmtree(arm.checkpoints)


def advice(run: RunFolder) -> str:
    """What to do about a training of the run that has just stopped: the command, and where training goes on from."""
    recipe, arms = run.read_recipe(), unfinished_stops(run)
    where, why = goes_on_from(arms[0]) if arms else (0, "")
    begins = f"goes on from the checkpoint of step {where}" if where else "begins anew"
    command = run.command(f"train.lr={lower_rate(recipe):.1g}")
    return (
        f"Training {begins}{f', since {why},' if why else ''} with a lower learning rate (now {recipe.train.lr:g}) by: "
        f"{command}\nOther settings that may change now: {', '.join(MENDING[1:])}. Everything else that is finished is kept."
    )


def lower_rate(recipe: Recipe) -> float:
    """A third of the recipe's learning rate; a published or the default one where that is far below it."""
    published = None if recipe.towers else STUDENTS.get(recipe.student.name).training
    known = published.lr if published else OptimSettings().lr
    return known if recipe.train.lr > _FAR_ABOVE * known else recipe.train.lr / 3

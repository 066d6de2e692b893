"""How long a job will take: what a rehearsal of the same models took on this machine, scaled by how much more there is to do."""

import json
import math
import platform
from pathlib import Path
from typing import Any, NamedTuple

from distill.core import atomic
from distill.core.errors import UsageError
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.verbs.expected import Data, Row
from reinforced_data.store.names import MANIFEST_FILE

UNKNOWN = "unknown until rehearsed: the same words with --rehearse"
TRAIN = "train student"  # what the stage is called in a run; the other students of a run train alike
# Of what a stage and a training step took, at most so much may be the same for any number of samples.
START_S, STEP_S = 5.0, 0.2
# Times as little that a sample costs in a large batch, at most; on a GPU as many times as the batch is larger.
CPU_GAIN = 2.0
MORE = 1.5  # times as much that it may take: machines slow down, and have other work


class Rehearsal(NamedTuple):
    """A finished rehearsal: its folder and recipe, seconds by stage, and how many samples it labelled."""

    run: RunFolder
    recipe: Recipe
    seconds: dict[str, float]
    labelled: int


def hours(recipe: Recipe, data: Data, stages: list[str], folder: Path, *, named: bool = False) -> list[Row]:
    """A row per stage: "stage", "low" and "high" in hours (None = not known), and the "basis".

    The ends are what would be if the rehearsal's handful of samples cost mostly the start of a stage, and if it cost nothing.

    Args:
        folder: of the rehearsal; one that is not there, not finished, of other models or of another machine tells nothing.
        named: whether the user gave it.

    Raises UsageError, with the reason, where the one that the user gave tells nothing.
    """
    run = RunFolder(folder)
    if reason := _tells_nothing(recipe, run):
        if named:
            raise UsageError(
                f"--rehearsal {str(folder)!r} tells nothing of this job: {reason}. Make one by the same words with --rehearse, or "
                "leave it out."
            )
        return [_row(stage, None, UNKNOWN) for stage in stages]
    found = _rehearsal(run)
    other = "" if found.recipe.data == recipe.data else " of other data"
    basis = f"measured here on {found.labelled} samples{other} ({found.run})"
    trained = sum(stage.startswith("train ") for stage in stages)
    rows = []
    for stage in stages:
        if stage.startswith("train "):
            ends = _training(recipe, found)
        elif stage in found.seconds:
            ends = _stage(found.seconds[stage], *_more(recipe, data, found, stage, trained))
        else:
            ends = None
        rows.append(_row(stage, ends, basis if ends else "no stage of the rehearsal"))
    return rows


def _row(stage: str, seconds: tuple[float, float] | None, basis: str) -> Row:
    low, high = (None, None) if seconds is None else (end / 3600 for end in seconds)
    return {"stage": stage, "low": low, "high": high, "basis": basis}


def _tells_nothing(recipe: Recipe, run: RunFolder) -> str:
    """Why the times of a rehearsal say nothing of a job; "" where they do."""
    if not (run.resolved.exists() and run.seconds.exists()):
        return "there is no finished run"
    if _models(run.read_recipe()) != _models(recipe):
        return "its teachers, captioners, student or exports are others"
    if run.read_resolved()["versions"].get("platform") != platform.platform():
        return "it was made on another machine"
    return ""


def _rehearsal(run: RunFolder) -> Rehearsal:
    was = run.read_recipe()
    manifest = run.reinforced / MANIFEST_FILE
    labelled = int(atomic.read_json(manifest)["samples"]) if manifest.exists() else was.limit or 0
    seconds = {str(name): float(value) for name, value in atomic.read_json(run.seconds).items()}
    return Rehearsal(run, was, seconds, labelled)


def _models(recipe: Recipe) -> Any:
    """What must be the same for times to be worth anything."""
    export = recipe.export.model_dump(include={"targets", "precisions", "classes", "batch"})
    return recipe.teachers, recipe.captioners, recipe.student, export


def _more(recipe: Recipe, data: Data, found: Rehearsal, stage: str, trained: int) -> tuple[float, float]:
    """(how many times as much the stage has to do, how many times larger its batches are)."""
    was, views = found.recipe, recipe.reinforce.views_per_image
    if stage == "reinforce":
        more = data.images * views / max(1, found.labelled * was.reinforce.views_per_image)
        return more, recipe.reinforce.batch_size / was.reinforce.batch_size
    if stage == "verify stored embeddings":
        asked = data.images * views if recipe.reinforce.verify == "all" else float(recipe.reinforce.verify)
        return asked / max(1.0, float(was.reinforce.verify if was.reinforce.verify != "all" else found.labelled)), 1.0
    if stage == "evaluate":
        images = data.judged / max(1, min(data.judged, was.eval.limit or data.judged))
        models = (len(recipe.teachers) + trained) / (len(was.teachers) + 1)
        return images * models, recipe.eval.batch_size / was.eval.batch_size
    if stage == "profile on this host":
        return recipe.profile.runs / was.profile.runs, 1.0
    return 1.0, 1.0


def _stage(taken: float, more: float, larger: float) -> tuple[float, float]:
    start = min(taken, START_S)
    return start + (taken - start) * more / _gain(larger), MORE * taken * max(1.0, more)


def _training(recipe: Recipe, found: Rehearsal) -> tuple[float, float] | None:
    """By the last step that the rehearsal's training logged: its first one warms up too."""
    was, steps = found.recipe, recipe.train.steps
    larger = recipe.train.batch_size / was.train.batch_size
    step = _step_seconds(found.run, was.train.batch_size)
    if step is None:
        return None
    start = min(step, STEP_S)
    return steps * (start + (step - start) * larger / _gain(larger)), MORE * steps * step * max(1.0, larger)


def _step_seconds(run: RunFolder, batch: int) -> float | None:
    if not run.metrics.exists():
        return None
    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    speed = rows[-1].get("samples_per_s") if rows else None
    return batch / speed if speed and math.isfinite(speed) else None


def _gain(larger: float) -> float:
    """How many times as little a sample may cost in a batch that is so many times larger."""
    import torch

    return max(1.0, larger if torch.cuda.is_available() else min(larger, CPU_GAIN))

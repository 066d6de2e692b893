"""How a student begins to train: its vocabulary, what it inherits, the stages before it, its projections in closed form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.progress import Progress
from distill.models import new_student, source_of_weights, start_student, student_spec
from distill.processes import this_place
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.training.arm import Arm, fit_student, pairs_of
from distill.stages.training.progressive import Beginning, through_stages
from distill.stages.training.words import with_own_vocabulary
from students.inherit.start import ADOPTED

Keep = Callable[[RunFolder, Beginning, Any], None]  # (folder, what was trained, its task): write the student's folder


def begin(
    recipe: Recipe,
    arm: Arm,
    data: Any,
    licence: Callable[[dict[str, Any]], str],
    progress: Progress,
    keep: Keep,
    say: Callable[[str], None],
) -> Beginning:
    """The student as it begins to train: new, or out of the stages before it, which are trained here.

    Args:
        recipe, arm, data, progress: as of `distill.stages.train.train_model`.
        licence: from what was inherited to the terms of a student that starts from it.
        keep: writes the student of a stage.
        say: is told what a cut vocabulary costs and saves.
    """
    student = with_own_vocabulary(recipe.student.model_copy(update={"inherit": arm.inherit}), arm.run, data, say)
    known = _record(arm.run.inheritance)
    first = None if student.inherit_from or not arm.teachers else arm.teachers.specs[0].name
    if not student.stages or student.inherit in ("none", "copy") or not (arm.teachers or student.inherit_from):

        def calibrate(model: Any) -> Any:
            return pairs_of(recipe, arm, model, data, first)

        start = Beginning(*new_student(student, arm.teachers, recipe.seed, calibrate, known))
        _project(recipe, arm, data, start.student, start.inherited, arm.run, licence, progress)
        return start
    from students.student import build_student

    def begin_stage(spec: Any, source: Any, place: RunFolder, final: bool) -> tuple[Any, dict[str, Any]]:
        model = build_student(spec, recipe.seed)
        stored = first if source is weights else None  # stored embeddings are the teacher's, and no stage's
        before = known.get("transition", {}) if final else _record(place.inheritance)
        took = start_student(model, student, source, lambda own: pairs_of(recipe, arm, own, data, stored), before)
        if source is weights:
            place.path.mkdir(parents=True, exist_ok=True)
            _project(recipe, arm, data, model, took, place, licence, progress)
        if not final and this_place().rank == 0:
            place.path.mkdir(parents=True, exist_ok=True)
            atomic.write_json(place.inheritance, took)
        return model, took

    def train(place: RunFolder, model: Any, took: dict[str, Any], leg: Any, beside: dict[str, Any]) -> None:
        stage = Beginning(model, took, leg, beside)
        task = fit_student(recipe, arm, data, place, stage, progress)
        if not place.student.exists():
            keep(place, stage, task)

    _, weights = source_of_weights(student, arm.teachers)
    return through_stages(
        student_spec(student), student.stages, recipe.train.steps, weights, arm.run, begin_stage, train
    )


def _record(file: Path) -> dict[str, Any]:
    return dict(atomic.read_json(file)) if file.exists() else {}


def _project(
    recipe: Recipe,
    arm: Arm,
    data: Any,
    student: Any,
    inherited: dict[str, Any],
    place: RunFolder,
    licence: Callable[[dict[str, Any]], str],
    progress: Progress,
) -> None:
    """Fit the projections of towers that have none of their own, and keep the student so; `inherited` says what was found.

    A run that goes on from a checkpoint does not need them again.
    """
    from distill.learning.checkpoint import latest
    from distill.stages.training.project import can_project, new_projections, project

    if recipe.student.project != "auto" or arm.plain or not can_project(data):
        return
    if not (bare := new_projections(student, inherited)):
        return
    if place.start.exists() and latest(place.checkpoints) is not None:
        inherited["projected"] = _record(place.inheritance)["projected"]
    else:
        inherited["projected"] = project(student, data, list(bare), recipe.seed, progress)
        if this_place().rank == 0:
            student.save(place.start, {"licence": licence(inherited), "seed": recipe.seed, "samples": 0})
    for names in bare.values():
        inherited["origins"] |= dict.fromkeys(names, ADOPTED)

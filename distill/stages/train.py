"""From a recipe and its pairs to a trained student folder: what `distill train` and `distill run` share."""

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.clip.folder import is_clip_folder
from distill.core.errors import DistillError, UsageError
from distill.core.progress import Progress
from distill.models import TeacherSet
from distill.processes import this_place, wait_until
from distill.recipe import Recipe
from distill.rehearsal import MARK
from distill.run_folder import BULKY, RunFolder
from distill.stages.evaluate import smaller_batch
from distill.stages.training.arm import Arm, compiling, fit_student, loader_workers
from distill.stages.training.begin import begin
from distill.stages.training.progressive import Beginning
from distill.stages.training.start import start_lines
from distill.stages.training.stops import noting_stops, read_stops
from distill.stages.training_data import keep_trained_on, stored_pairs
from reinforced_data.store.names import MANIFEST_FILE
from students.vocabularies.cut import read_cut
from teachers.load import model_in

if TYPE_CHECKING:
    from distill.learning.task import DistillTask


def train_model(
    recipe: Recipe, arm: Arm, data: Any, licence: str, progress: Progress, say: Callable[[str], None] | None = None
) -> Path:
    """Train the recipe's student into the arm's student/, resuming from its checkpoints. Returns the folder.

    Args:
        data: `StoredPairs` or `RawPairs`, at the student's image size.
        licence: goes into the student's card.
        say: is told, before training begins, what does not start from inherited weights, and why.
    """
    run = arm.run
    if run.student.exists():  # written last and atomically, so it is whole
        return run.student
    first = this_place().rank == 0
    run.path.mkdir(parents=True, exist_ok=True)
    with noting_stops(run, recipe.train):

        def keep(place: RunFolder, stage: Beginning, task: "DistillTask") -> None:
            _keep_student(recipe, arm, place, stage, task, licence)

        def tell(line: str) -> None:
            if say is not None:
                say(f"{arm.name}: {line}")

        start = begin(recipe, arm, data, lambda took: with_inherited_licence(licence, took), progress, keep, tell)
        if first:
            atomic.write_json(run.inheritance, start.inherited)
            for line in start_lines(start.inherited):
                tell(line)
        if first and recipe.train.workers == "auto":
            workers, why = loader_workers(recipe, data)
            tell(f"train.workers = {workers} ({why})")
        if first and recipe.train.compile == "auto":
            compiled, why = compiling(recipe, start)
            tell(f"train.compile = {str(compiled).lower()} ({why})")
        task = fit_student(recipe, arm, data, run, start, progress)
    keep(run, start, task)
    for number in range(len(recipe.student.stages)) if first else ():
        shutil.rmtree(run.stage(number + 1).checkpoints, ignore_errors=True)
    return run.student


def _keep_student(
    recipe: Recipe, arm: Arm, place: RunFolder, start: Beginning, task: "DistillTask", licence: str
) -> None:
    """Write the trained student's folder; the other processes wait for it."""
    origin = task.settle_scale()
    if this_place().rank == 0:
        terms = with_inherited_licence(licence, start.inherited)
        names = list(task.teacher_facts) if task.objective.needs_teachers else []
        card = _card(recipe, arm, start.inherited, terms, names)
        card["logit_scale"] = {"value": round(start.student.logit_scale.item(), 4), "origin": origin}
        if recipe.train.ema is not None:
            _keep_average(recipe, place, start, task, card)
        start.student.save(place.student, card, half=recipe.train.half_weights)
    wait_until(place.student.exists, f"the first process to write {str(place.student)!r}")


def _keep_average(
    recipe: Recipe, place: RunFolder, start: Beginning, task: "DistillTask", card: dict[str, Any]
) -> None:
    """Write the student with the average of its weights; the student itself stays as it is."""
    from distill.learning import checkpoint as checkpoints

    done = checkpoints.latest(place.checkpoints)
    average = None if done is None else checkpoints.read_average(done)
    if average is None:
        raise DistillError(f"The checkpoints in {str(place.checkpoints)!r} have no average of the weights.")
    raw = {name: value.clone() for name, value in task.state_dict().items()}
    task.load_state_dict(average)
    origin = task.settle_scale()
    scale = {"value": round(start.student.logit_scale.item(), 4), "origin": origin}
    about = {**card, "logit_scale": scale, "average_of_weights": recipe.train.ema}
    start.student.save(place.averaged, about, half=recipe.train.half_weights)
    task.load_state_dict(raw)


def refuse_few(recipe: Recipe, run: RunFolder, pairs: Any) -> None:
    """Raise UsageError where there are fewer samples than a batch takes, as filters may leave: how many is known only now."""
    if len(pairs) < recipe.train.batch_size:
        raise UsageError(
            f"There are {len(pairs)} samples to train on, fewer than one batch of {recipe.train.batch_size}. "
            f"{smaller_batch(len(pairs))} What is done is kept; go on with that setting by: {run.command()}"
        )


def _card(
    recipe: Recipe, arm: Arm, inherited: dict[str, Any], licence: str, teacher_names: list[str]
) -> dict[str, Any]:
    """What a student says of itself: its terms, what it learned from and what it started from."""
    return {
        "licence": licence,
        **({} if (commercial := allows_commercial_use(licence)) is None else {"commercial": commercial}),
        "objective": arm.objective,
        "samples": recipe.train.steps * recipe.train.batch_size,
        "seed": recipe.seed,
        "teachers": teacher_names,
        "inherited": {key: value for key, value in inherited.items() if key not in BULKY},
        **({} if (cut := read_cut(arm.run.vocabulary)) is None else {"vocabulary": asdict(cut[1])}),
        **({"stopped_before": stops} if (stops := read_stops(arm.run)) else {}),
        **({"rehearsal": MARK} if recipe.rehearse else {}),
    }


def model_folder(path: Path) -> Path:
    """The student folder that `path` means: itself, or the student/ (or teacher/) inside a run."""
    found = Path(model_in(str(path)))
    if is_clip_folder(found):
        return found
    if not path.exists():
        raise UsageError(f"There is no {str(path)!r}. Give a run folder or the student/ folder inside one.")
    run = RunFolder(path)
    if not run.resolved.exists():
        raise UsageError(
            f"{str(path)!r} holds no model and is no run: looked for open_clip_config.json in it, in student/ and in teacher/, and "
            f"for {run.resolved.name}. Give a run folder, or the folder of a CLIP."
        )
    if run.verb() == "reinforce":
        raise DistillError(
            f"The run in {str(run)!r} has labelled data and no student. Train one: distill run --data {run}"
        )
    raise DistillError(f"{str(path)!r} holds no trained student yet. Finish it first: {run.command()}")


def with_inherited_licence(licence: str, inherited: dict[str, Any]) -> str:
    """The terms of a student: those of its data and teachers, and of the weights that it started from where it took any."""
    terms, source = inherited.get("source_licence", ""), inherited.get("source")
    if not inherited["towers"] or not terms or re.search(rf"(^|[:;] ){re.escape(terms)}(;|$)", licence):
        return licence
    clauses = licence.split("; ") if licence else []
    closed = not inherited.get("source_commercial", True)
    if closed:
        clauses = [clause for clause in clauses if not clause.endswith(" forbids commercial use")]  # not true any more
    clauses.append(f"weights inherited from {source}: {terms}")
    if closed:
        clauses.append(f"no commercial use because of the weights inherited from {source}")
    return "; ".join(clauses)


def allows_commercial_use(licence: str) -> bool | None:
    """What a student's terms say of it, for the next stage that is made of the student; None where they do not tell."""
    if "no commercial use" in licence:
        return False
    silent = "unknown" in licence or "-NC" in licence or not licence.endswith(" forbids commercial use")
    return None if silent else True


def training_licence(set_folder: Path | None, source_licence: str) -> str:
    """What a student trained on this must say of its terms."""
    if set_folder is None:
        return source_licence
    return str(atomic.read_json(set_folder / MANIFEST_FILE)["licence_summary"])


def arms_of(recipe: Recipe, teachers: TeacherSet, run: RunFolder) -> list[Arm]:
    """What a run trains, in order: the student, and beside it what it is compared with."""
    arms = [Arm("train student", run, recipe.objective, recipe.student.inherit, teachers)]
    if recipe.baseline.enabled:
        plain = recipe.baseline
        arms.append(Arm("train plain student", run.plain, plain.objective, plain.inherit, teachers, plain=True))
        if plain.four_arms and recipe.student.inherit != "none":
            arms.append(Arm("train from a random start", run.random_start, recipe.objective, "none", teachers))
            start = recipe.student.inherit
            arms.append(Arm("train without a teacher", run.no_teacher, plain.objective, start, teachers, plain=True))
    return arms


def train_stages(
    recipe: Recipe,
    set_folder: Path,
    teachers: TeacherSet,
    run: RunFolder,
    console: Console,
    selection: Path | None = None,
) -> None:
    """The student into the run's student/, and the plain one (no teacher anywhere) into plain/student.

    With baseline.four_arms also those between the two, random-start/ and no-teacher/, where the student inherits anything.

    Args:
        selection: folder of the samples to train both on; None = the whole set.
    """
    todo = [arm for arm in arms_of(recipe, teachers, run) if not arm.run.student.exists()]
    if not todo:
        return
    if this_place().rank == 0:
        keep_trained_on(run, set_folder, selection)
    pairs = None
    for arm in todo:
        with console.stage(arm.name) as advance:
            if pairs is None:
                pairs = stored_pairs(recipe, set_folder, selection, run)
                refuse_few(recipe, run, pairs)
            train_model(
                recipe, arm, pairs, training_licence(set_folder, ""), advance, console.say if arm.run is run else None
            )

"""From a recipe and its pairs to a trained student folder: what `distill train` and `distill run` share."""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.clip.folder import is_clip_folder
from distill.core.errors import DistillError, UsageError
from distill.core.progress import Progress
from distill.models import TeacherSet, new_student
from distill.processes import this_place, wait_until
from distill.recipe import Recipe
from distill.rehearsal import MARK
from distill.run_folder import RunFolder
from distill.stages.evaluate import smaller_batch
from distill.stages.training.start import calibration, start_lines
from distill.stages.training.stops import noting_stops, read_stops
from distill.stages.training.words import with_own_vocabulary
from distill.stages.training_data import keep_trained_on, stored_pairs
from reinforced_data.store.names import MANIFEST_FILE
from students.inherit.start import ADOPTED
from students.vocabularies.cut import read_cut

if TYPE_CHECKING:
    from torch import Tensor

    from distill.learning.task import DistillTask
    from reinforced_data.sample import Batch


@dataclass(frozen=True)
class Arm:
    """One student to train: its place, and what sets it apart from the other arms of a run.

    Attributes:
        name: what progress calls it.
        run: gets the student, its checkpoints and metrics.
        objective, inherit: a preset's name or weights per loss, and an inheritance strategy.
        teachers: what weights may be inherited from; None = nothing.
        plain: the baseline, which no teacher may touch, not even by weights of consistency.
    """

    name: str
    run: RunFolder
    objective: str | dict[str, float]
    inherit: str
    teachers: TeacherSet | None
    plain: bool = False


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
    from distill.learning.fit import fit
    from distill.learning.task import pair_arguments
    from distill.stages.training.project import new_projections

    first = this_place().rank == 0
    run.path.mkdir(parents=True, exist_ok=True)
    wanted = recipe.student.model_copy(update={"inherit": arm.inherit})
    student, inherited = new_student(
        with_own_vocabulary(wanted, run, data, None if say is None else lambda line: say(f"{arm.name}: {line}")),
        arm.teachers,
        recipe.seed,
        lambda student: _calibration(recipe, arm, student, data),
        atomic.read_json(run.inheritance) if run.inheritance.exists() else None,
    )
    if recipe.student.project == "auto" and not arm.plain and (bare := new_projections(student, inherited)):
        inherited["projected"] = _projected(
            recipe, arm, student, data, list(bare), with_inherited_licence(licence, inherited), progress
        )
        for names in bare.values():
            inherited["origins"] |= dict.fromkeys(names, ADOPTED)
    if first:
        atomic.write_json(run.inheritance, inherited)
        for line in start_lines(inherited):
            if say is not None:
                say(f"{arm.name}: {line}")
    task = distill_task(recipe, arm, student, data)
    with noting_stops(run, recipe.train):
        fit(
            task,
            _stream(recipe, data),
            pair_arguments(_cached_tokenize(student)),
            run.checkpoints,
            run.metrics,
            optim=recipe.train,
            checkpointing=recipe.train,
            seed=recipe.seed,
            progress=progress,
        )
    origin = task.settle_scale()
    if first:
        terms = with_inherited_licence(licence, inherited)
        card = _card(recipe, arm, inherited, terms, list(task.teacher_facts) if task.objective.needs_teachers else [])
        card["logit_scale"] = {"value": round(student.logit_scale.item(), 4), "origin": origin}
        student.save(run.student, card, half=recipe.train.half_weights)
    wait_until(run.student.exists, f"the first process to write {str(run.student)!r}")
    return run.student


def _projected(
    recipe: Recipe, arm: Arm, student: Any, data: Any, towers: list[str], licence: str, progress: Progress
) -> dict[str, Any]:
    """Fit the projections of towers that have none of their own and keep the student so; what was found, per tower.

    A run that goes on from a checkpoint does not need them again.
    """
    from distill.learning.checkpoint import latest
    from distill.stages.training.project import project

    run = arm.run
    if run.start.exists() and latest(run.checkpoints) is not None:
        return dict(atomic.read_json(run.inheritance)["projected"])
    found = project(student, data, towers, recipe.seed, progress)
    if this_place().rank == 0:
        student.save(run.start, {"licence": licence, "seed": recipe.seed, "samples": 0})
    return found


def refuse_few(recipe: Recipe, run: RunFolder, pairs: Any) -> None:
    """Raise UsageError where there are fewer samples than a batch takes, as filters may leave: how many is known only now."""
    if len(pairs) < recipe.train.batch_size:
        raise UsageError(
            f"There are {len(pairs)} samples to train on, fewer than one batch of {recipe.train.batch_size}. "
            f"{smaller_batch(len(pairs))} What is done is kept; go on with that setting by: {run.command()}"
        )


def distill_task(recipe: Recipe, arm: Arm, student: Any, data: Any) -> "DistillTask":
    """What trains the student of an arm: its losses against the teachers whose embeddings the data carries."""
    from distill.learning.objective import Objective, fixed_scale
    from distill.learning.task import DistillTask

    facts = data.teacher_facts
    objective = Objective(arm.objective, int(student.spec.model_cfg["embed_dim"]), facts)
    consistency = recipe.captions.consistency_weight if facts and not arm.plain else None
    return DistillTask(student, objective, facts, fixed_scale(arm.objective), consistency)


def _calibration(recipe: Recipe, arm: Arm, student: Any, data: Any) -> Any:
    """Pairs to score and measure a start on; the losses' own projections start from the recipe's seed."""
    import torch

    first = None if recipe.student.inherit_from or not arm.teachers else arm.teachers.specs[0].name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        task = distill_task(recipe, arm, student, data)
        return calibration(data, task, student, seed=recipe.seed, teacher=first)


def _stream(recipe: Recipe, data: Any) -> "Callable[[int, int], Iterator[Batch]]":
    """What `fit` draws this rank's batches from."""
    from reinforced_data.training.loader import batches

    def stream(first_step: int, last_step: int) -> "Iterator[Batch]":
        rank, world = _rank()
        return batches(
            data, batch_size=recipe.train.batch_size, seed=recipe.seed, first_step=first_step, last_step=last_step,
            rank=rank, world=world, workers=recipe.train.workers,
        )  # fmt: skip

    return stream


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
        "inherited": {key: value for key, value in inherited.items() if key not in ("plan", "origins")},
        **({} if (cut := read_cut(arm.run.vocabulary)) is None else {"vocabulary": asdict(cut[1])}),
        **({"stopped_before": stops} if (stops := read_stops(arm.run)) else {}),
        **({"rehearsal": MARK} if recipe.rehearse else {}),
    }


def _rank() -> tuple[int, int]:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _cached_tokenize(student: Any) -> Any:
    """Tokenise with a memory: a caption comes back every epoch, and cleaning its text costs more than the look-up."""
    import torch

    @lru_cache(maxsize=200_000)
    def one(caption: str) -> "Tensor":
        return student.tokenize([caption])[0]  # type: ignore[no-any-return]

    return lambda captions: torch.stack([one(caption) for caption in captions])


def model_folder(path: Path) -> Path:
    """The student folder that `path` means: itself, or the student/ (or teacher/) inside a run."""
    for candidate in (path, RunFolder(path).student, RunFolder(path).teacher):
        if is_clip_folder(candidate):
            return candidate
    if not path.exists():
        raise UsageError(f"There is no {str(path)!r}. Give a run folder or the student/ folder inside one.")
    raise DistillError(f"{str(path)!r} holds no trained student yet. Finish it first: {RunFolder(path).command()}.")


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
    arms = [Arm("train student", run, recipe.objective, recipe.student.inherit, teachers)]
    if recipe.baseline.enabled:
        plain = recipe.baseline
        arms.append(Arm("train plain student", run.plain, plain.objective, plain.inherit, teachers, plain=True))
        if plain.four_arms and recipe.student.inherit != "none":
            arms.append(Arm("train from a random start", run.random_start, recipe.objective, "none", teachers))
            start = recipe.student.inherit
            arms.append(Arm("train without a teacher", run.no_teacher, plain.objective, start, teachers, plain=True))
    todo = [arm for arm in arms if not arm.run.student.exists()]
    if not todo:
        return
    if this_place().rank == 0:
        keep_trained_on(run, set_folder, selection)
    pairs = None
    for arm in todo:
        with console.stage(arm.name) as advance:
            if pairs is None:
                pairs = stored_pairs(recipe, set_folder, selection)
                refuse_few(recipe, run, pairs)
            train_model(
                recipe, arm, pairs, training_licence(set_folder, ""), advance, console.say if arm.run is run else None
            )

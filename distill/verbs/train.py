"""`distill train`: a student from a reinforced set, a full teacher from a source, or heads over frozen towers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.core.strict import Settings
from distill.processes import this_place
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.opening import begun_training, share_run, taken_for
from distill.verbs.endings import going_on
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_to_go_on
from distill.verbs.results import TrainResult
from reinforced_data.source import Source, opening_once
from reinforced_data.store.names import MANIFEST_FILE

if TYPE_CHECKING:
    from distill.stages.latency.choose import Choice


def train(
    recipe: RecipeLike = None,
    *,
    out: AnyPath,
    teacher: OneOrMore = (),
    student: str | None = None,
    data: AnyPath | None = None,
    image_column: str | None = None,
    caption_column: str | Sequence[str] = (),
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | str | None = None,
    lr: float | None = None,
    workers: int | str | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Settings = (),
    console: Console | None = None,
) -> TrainResult:
    """Train into out/student (out/teacher for heads over towers).

    With data that is a reinforced set, teacher embeddings come from it. With any other source the objective must need no
    teacher (objective = "clip"): so full teachers are trained.

    Args:
        out: run folder.
        data: as of `distill.run`; a run stands for the reinforced set in it. The others are as of `distill.run` too.
        resume: go on with the run in `out`, by its own recipe where `recipe` is None; what else is said must agree with it.

    Raises what `distill.run` raises.
    """
    from distill.stages.budget import settle
    from distill.stages.latency.choose import settle_choice

    console, run, existing = console or Console(), RunFolder(out), Existing.of(resume=resume, overwrite=overwrite)
    with going_on(run), opening_once():
        job = recipe_to_go_on(
            "train", run, existing, recipe, settings, teacher=teacher, student=student, data=data, epochs=epochs, steps=steps,
            batch_size=batch_size, lr=lr, workers=workers, image_size=image_size, seed=seed, image_column=image_column,
            caption_column=caption_column,
        )  # fmt: skip
        existing = taken_for(run, existing, job)
        if job.choose.asked and job.choose.train > 1:
            raise UsageError(
                "choose.train trains several students and judges them, which distill run does. Leave it out here."
            )
        job, chosen, choice = settle_choice(job, run, existing, console)
        job, filled = settle(job, run, existing, this_place(), console)
        if job.towers is not None:
            from distill.stages.align import align_towers

            return TrainResult(run.teacher, align_towers(job, run, existing, console), heads=True)
        return _train(job, {**chosen, **filled}, run, existing, console, choice)


def _train(
    job: Recipe,
    filled: dict[str, str],
    run: RunFolder,
    existing: Existing,
    console: Console,
    choice: "Choice | None",
) -> TrainResult:
    from distill.core.clip.model import count_parameters
    from distill.models import TeacherSet
    from distill.stages.label import open_data
    from distill.stages.lint import refuse_errors
    from distill.stages.read_data import tell_how_read
    from distill.stages.reinforce import is_reinforced
    from distill.stages.train import refuse_few, train_model, training_licence
    from distill.stages.training.arm import Arm
    from distill.stages.training.feasible import refuse_start
    from distill.stages.training_data import keep_trained_on, selection_stage, texts_stage
    from students.student import load_student

    _refuse_wrong(job)
    set_folder = Path(job.data) if is_reinforced(Path(job.data)) else None
    if set_folder is None and (run.reinforced / MANIFEST_FILE).exists():
        set_folder = run.reinforced  # of a run that `distill run` began
    source = None
    if set_folder is None:
        source = open_data(job)
        _refuse_without_set(job)
    inherits = job.student.inherit != "none"
    teachers = TeacherSet(job.teachers if inherits else (), random_weights=job.rehearse, seed=job.seed)
    refuse_errors(job, run)
    if not begun_training(run):
        refuse_start(job, set_folder, None if source is None else len(source), teachers)
    share_run(run, job, existing, filled, "train")
    if this_place().rank == 0:
        console.log_to(run.log)
        if choice is not None:
            atomic.write_json(run.choice, choice.to_json())
    tell_how_read(job, run, console, evaluation=False)
    selection = None
    if set_folder is not None:
        selection = selection_stage(job, set_folder, run, console, wait=True)
        readers = teachers if inherits else TeacherSet(job.teachers, random_weights=job.rehearse, seed=job.seed)
        texts_stage(job, readers, set_folder, run, console)
        if this_place().rank == 0:
            keep_trained_on(run, set_folder, selection)
    arm = Arm("train", run, job.objective, job.student.inherit, teachers if inherits else None)
    terms = f"data {source.name}: {source.licence}" if source else ""
    with console.stage(arm.name) as advance:
        data = _pairs(job, set_folder, source, selection, run)
        refuse_few(job, run, data)
        folder = train_model(job, arm, data, training_licence(set_folder, terms), advance, console.say)
    return TrainResult(folder, count_parameters(load_student(folder).clip))


def _refuse_wrong(job: Recipe) -> None:
    """Raise UsageError for what is wrong with the words alone, before any data is opened."""
    from distill.learning.objective import refuse_without_decoder
    from distill.models import student_spec
    from distill.stages.training.feasible import refuse_infeasible
    from distill.stages.training_data import caption_policy, check_curation, check_texts

    refuse_without_decoder(job.objective, job.student.name, student_spec(job.student).captions)
    refuse_infeasible(job)
    check_curation(job)
    check_texts(job)
    caption_policy(job.captions)


def _pairs(job: Recipe, set_folder: Path | None, source: Source | None, selection: Path | None, run: RunFolder) -> Any:
    """What batches are drawn from: a stored set, or data as it is."""
    from distill.models import student_spec
    from distill.stages.training_data import caption_policy, stored_pairs
    from reinforced_data.training.pairs import RawPairs

    if set_folder is not None:
        return stored_pairs(job, set_folder, selection, run)
    assert source is not None
    size = student_spec(job.student).image_size
    return RawPairs(source, job.reinforce.view_preset, size, caption_policy(job.captions), job.reinforce.rendering)


def _refuse_without_set(job: Recipe) -> None:
    """Raise UsageError for what only a reinforced set can serve, when job.data is none."""
    from distill.learning.objective import refuse_without_teachers

    if job.filters or job.selection not in (None, "none"):
        raise UsageError(
            f"Filters and selections are of reinforced sets, and {job.data!r} is none. Reinforce it first: distill "
            "reinforce."
        )
    refuse_without_teachers(job.objective)
    if job.captions.consistency_weight is not None:
        raise UsageError(
            f"captions.consistency_weight compares what teachers stored, and {job.data!r} carries nothing of them. "
            "Reinforce it first, or leave the setting out."
        )

"""`distill run`: reinforce, train, evaluate, export, profile, report, in one resumable run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.console import Console
from distill.core import atomic
from distill.core.errors import DistillError, UsageError
from distill.core.existing import Existing
from distill.core.strict import Settings
from distill.processes import WEEK_S, this_place, wait_until
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.opening import begun_training, refuse_existing, share_run, taken_for
from distill.verbs.endings import another_threshold, going_on
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of, recipe_to_go_on
from distill.verbs.results import RunResult
from reinforced_data.source import opening_once
from reinforced_data.store.names import MANIFEST_FILE

if TYPE_CHECKING:
    from distill.models import TeacherSet
    from distill.stages.latency.choose import Choice


def default_out(recipe: Recipe) -> Path:
    """runs/<student>-from-<teachers>, with a suffix for a rehearsal; a budget stands for the student that it will choose."""
    teachers = "+".join(Path(name).name.replace(":", "-") for name in recipe.teachers)
    student = recipe.student.name.replace(":", "-")
    budget = recipe.choose
    if budget.asked:
        limits = {"ms": budget.max_latency, "MB": budget.max_size, "MB-memory": budget.max_memory}
        student = "-".join(f"{limit:g}{unit}" for unit, limit in limits.items() if limit)
        student += f"-{'+'.join(budget.devices or recipe.profile.devices)}".rstrip("-") if budget.max_latency else ""
    return Path("runs") / f"{student}-from-{teachers}{'-rehearsal' if recipe.rehearse else ''}"


def run(
    recipe: RecipeLike = None,
    *,
    teacher: OneOrMore = (),
    captioner: OneOrMore = (),
    student: str | None = None,
    data: AnyPath | None = None,
    image_column: str | None = None,
    caption_column: str | Sequence[str] = (),
    filter: OneOrMore = (),
    target: OneOrMore = (),
    precision: OneOrMore = (),
    device: OneOrMore = (),
    max_latency: float | str | None = None,
    max_size: float | str | None = None,
    max_memory: float | str | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | str | None = None,
    lr: float | None = None,
    workers: int | str | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    out: AnyPath | None = None,
    rehearse: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    settings: Settings = (),
    console: Console | None = None,
) -> RunResult:
    """Do the whole job: label the data, train a student, judge, export and time it, and write the report.

    Args:
        recipe: what the other arguments change: a TOML file, a shipped recipe's name, a `Recipe`; None = the default job.
        teacher, captioner, filter, target, precision, device: one name or several.
        student: name of an architecture.
        data: a folder, a table or tar file, "hf:ORG/SET", or a reinforced set.
        image_column, caption_column: of the data, where their names do not say which hold images (or paths) and real captions.
        max_latency, max_size, max_memory: a budget in milliseconds on `device` or in megabytes ("5ms", "40MB"), by which the
            student is chosen, see `distill.choose`.
        epochs, steps: length of training, one of the two; neither = as fits the data, see docs/train.md.
        batch_size, lr, workers: of training, the keys of those names in the recipe's train table.
        image_size: pixels that the student sees, student.image_size.
        seed: of every draw and random weight.
        out: run folder; None = runs/<student>-from-<teachers>.
        rehearse: full size, random weights, a handful of samples.
        resume: continue the run in `out`, by its own recipe where `recipe` is None; what is finished is not done again.
        overwrite: delete the run in `out` first.
        settings: any recipe key: {"train.steps": 100}, or ["train.steps=100"].

    Raises:
        UsageError: a name, key or path is wrong; the output exists; the run to resume was started otherwise.
        DistillError: weights are missing, data cannot be used, parity failed, the disk is full.
        Interrupted: for a KeyboardInterrupt, with what was kept and the command that goes on.
    """
    from distill.models import TeacherSet

    console = console or Console()
    existing = Existing.of(resume=resume, overwrite=overwrite)
    flags = {
        "teacher": teacher, "captioner": captioner, "student": student, "data": data, "filter": filter, "target": target,
        "precision": precision, "device": device, "max_latency": max_latency, "max_size": max_size, "max_memory": max_memory,
        "rehearse": rehearse, "epochs": epochs, "steps": steps, "batch_size": batch_size, "lr": lr, "workers": workers,
        "image_size": image_size, "seed": seed, "image_column": image_column, "caption_column": caption_column,
    }  # fmt: skip
    folder = RunFolder(default_out(recipe_of(recipe, settings, **flags)) if out is None else out)
    with going_on(folder):
        with opening_once():
            job = recipe_to_go_on("run", folder, existing, recipe, settings, may_begin=out is None, **flags)
            existing = taken_for(folder, existing, job)
            job, filled, choice = settled(job, folder, existing, console)
            teachers = TeacherSet(job.teachers, random_weights=job.rehearse, seed=job.seed)
            console.plan(stages_of(job, teachers, folder))
            _check(job, folder, existing, teachers, console)
            share_run(folder, job, existing, filled)
            if this_place().rank == 0:
                console.log_to(folder.log)
                if choice is not None:
                    atomic.write_json(folder.choice, choice.to_json())
            set_folder = _label(job, folder, teachers, console)
        return _work(job, set_folder, folder, teachers, console)


def settled(
    job: Recipe, folder: RunFolder, existing: Existing, console: Console
) -> "tuple[Recipe, dict[str, str], Choice | None]":
    """The recipe with nothing left open, the reason of each value that nobody set, and the choice that a budget made.

    Raises UsageError where there is no teacher, and what `stages.budget.settle` and `stages.latency.choose` raise.
    """
    from distill.rehearsal import rehearsal_of
    from distill.stages.budget import settle
    from distill.stages.latency.choose import settle_choice

    if not job.teachers:
        raise UsageError("distill run needs a teacher: --teacher NAME (see distill list teachers).")
    if job.rehearse:
        job = rehearsal_of(job)
    job, chosen, choice = settle_choice(job, folder, existing, console)
    job, filled = settle(job, folder, existing, this_place(), console)
    return job, {**chosen, **filled}, choice


def stages_of(job: Recipe, teachers: "TeacherSet", run: RunFolder) -> list[str]:
    """The names of the stages to come, in order, as the console shows them."""
    from distill.stages.reinforce import stages_of_set
    from distill.stages.train import arms_of

    after = {
        "evaluate": True,
        "export and check parity": job.export.targets,
        "profile on this host": job.profile.enabled,
    }
    trained = [arm.name for arm in arms_of(job, teachers, run)]
    return [*stages_of_set(job), *trained, *(name for name, asked in after.items() if asked), "report"]


def check_words(job: Recipe, run: RunFolder) -> None:
    """Find what can be wrong about the call and its data, without a model being loaded."""
    from distill.learning.objective import objective_weights, refuse_without_decoder
    from distill.models import CaptionerSet, student_spec
    from distill.stages.evaluate import check_data
    from distill.stages.exporting.stage import classes_of
    from distill.stages.lint import refuse_errors
    from distill.stages.reinforce import refuse_unused
    from distill.stages.training.feasible import refuse_infeasible
    from distill.stages.training_data import caption_policy, check_curation, check_texts
    from export.target import chosen_targets
    from students.inherit.start import check_strategy

    for objective in (job.objective, job.baseline.objective):
        objective_weights(objective)
        refuse_without_decoder(objective, job.student.name, student_spec(job.student).captions)
    for strategy in (job.student.inherit, job.baseline.inherit):
        check_strategy(strategy)
    caption_policy(job.captions)
    for target in chosen_targets(job.export.targets, job.export.precisions):
        target.configured(job.export)
    classes_of(job.export)
    check_curation(job)
    refuse_infeasible(job)
    check_texts(job)
    refuse_unused(job)
    CaptionerSet(job.captioners, job.reinforce.captioning, random_weights=job.rehearse, seed=job.seed)
    check_data(job)
    refuse_errors(job, run)


def _check(job: Recipe, run: RunFolder, existing: Existing, teachers: "TeacherSet", console: Console) -> None:
    """Find everything that can be wrong about the call before anything is written."""
    from distill.stages.read_data import look_first
    from distill.stages.reinforce import is_reinforced
    from distill.stages.training.feasible import refuse_start

    check_words(job, run)
    if not is_reinforced(Path(job.data)) and not (run.reinforced / MANIFEST_FILE).exists():
        if this_place().rank == 0:  # of several processes; the others may find what the first has just made
            refuse_existing(run, existing)
        look_first(job)
        with console.stage("load teachers"):
            teachers.loaded  # noqa: B018 - missing weights are reported before the run folder exists
    elif is_reinforced(Path(job.data)) and not begun_training(run):
        refuse_start(job, Path(job.data), None, teachers)


def _label(job: Recipe, run: RunFolder, teachers: "TeacherSet", console: Console) -> Path:
    """The finished reinforced set of the run; how the data is read is said before."""
    from distill.rehearsal import MARK
    from distill.stages.read_data import tell_how_read, tell_left_out
    from distill.stages.reinforce import reinforce_stage

    if job.rehearse:
        console.say(MARK)
    tell_how_read(job, run, console)
    set_folder = reinforce_stage(job, teachers, run, console)
    assert set_folder is not None  # it waits
    tell_left_out(set_folder, console)
    return set_folder


def _work(job: Recipe, set_folder: Path, run: RunFolder, teachers: "TeacherSet", console: Console) -> RunResult:
    """Do the stages after labelling, in order; each does nothing when its result is there.

    Of several processes all label and train; the first does the rest, and the others wait for its report.
    """
    from distill.reporting.facts import read_run
    from distill.reporting.hashes import write_hashes
    from distill.stages.evaluate import eval_stage, judged_models
    from distill.stages.exporting.classes import classes_stage
    from distill.stages.exporting.stage import export_stage
    from distill.stages.latency.profile import profile_stage
    from distill.stages.latency.trials import keep_best
    from distill.stages.train import train_stages
    from distill.stages.training_data import caption_stage, selection_stage, texts_stage
    from distill.verbs.report import report

    if this_place().rank == 0:
        caption_stage(job, set_folder, run, console)
    texts_stage(job, teachers, set_folder, run, console)
    selection = selection_stage(job, set_folder, run, console, wait=True)
    job = keep_best(job, set_folder, teachers, run, console, selection)
    train_stages(job, set_folder, teachers, run, console, selection)
    if this_place().rank:
        wait_until(run.report_html.exists, f"the first process's report in {str(run)!r}", WEEK_S)
        facts = read_run(run)
        return RunResult(run.path, run.student, facts["table"], facts)
    models = judged_models(job, teachers, run)
    failed: DistillError | None = None
    with opening_once():
        eval_stage(job, models, run, console)
        classes_stage(job, run, console)
        try:
            export_stage(job, run, console)
        except UsageError:
            raise
        except DistillError as error:  # what succeeded is timed and reported all the same
            failed = error
    profile_stage(job, models, run, console)
    write_hashes(run)
    _keep_seconds(run, console)
    result = report(run.path, console=console)
    if failed is not None:
        raise DistillError(
            f"{failed}\nEverything else is done, see {run.report_md}. {another_threshold(run.command())}"
        )
    return result


def _keep_seconds(run: RunFolder, console: Console) -> None:
    """Keep the time of each stage over resumes; they differ from run to run and are in no hash."""
    before = atomic.read_json(run.seconds) if run.seconds.exists() else {}
    atomic.write_json(run.seconds, {**before, **{name: round(value, 2) for name, value in console.seconds.items()}})

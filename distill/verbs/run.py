"""`distill run`: reinforce, train, evaluate, export, profile, report, in one resumable run folder."""

from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.recipe import Recipe


def default_out(recipe: Recipe) -> Path:
    """runs/<student>-from-<teachers>, with a suffix for a rehearsal."""
    teachers = "+".join(Path(name).name.replace(":", "-") for name in recipe.teachers)
    return Path("runs") / f"{recipe.student.name}-from-{teachers}{'-rehearsal' if recipe.rehearse else ''}"


def run(
    recipe: Recipe | None = None,
    out: Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """The whole job. Returns the facts that the report shows, and "out".

    Args:
        recipe: None = the embedded default.
        out: run folder; None = `default_out`.
        resume: continue the run in `out`; what is finished is not done again.
        overwrite: delete the run in `out` first.

    Raises:
        UsageError: a name, key or path is wrong; the output exists; the run to resume was started otherwise.
        DistillError: weights are missing, data cannot be used, parity failed, the disk is full.
    """
    from distill.learning.objective import objective_weights, refuse_without_decoder
    from distill.models import CaptionerSet, TeacherSet, check_strategy, student_spec
    from distill.rehearsal import MARK, rehearsal_of
    from distill.reporting.hashes import write_hashes
    from distill.run_folder import open_run
    from distill.stages import evaluate, export, profile, train, training_data
    from distill.stages import reinforce as reinforcing
    from distill.stages.training_data import caption_policy
    from distill.verbs.report import report
    from export.target import TARGETS

    console = console or Console()
    recipe = recipe or Recipe()
    if not recipe.teachers:
        raise UsageError("distill run needs a teacher: --teacher NAME (see distill list teachers).")
    if recipe.rehearse:
        recipe = rehearsal_of(recipe)
    # Everything that can be wrong about the call is found before anything is written.
    for objective in (recipe.objective, recipe.baseline.objective):
        objective_weights(objective)
        refuse_without_decoder(objective, recipe.student.name, student_spec(recipe.student).captions)
    for strategy in (recipe.student.inherit, recipe.baseline.inherit):
        check_strategy(strategy)
    caption_policy(recipe.captions)
    for target in recipe.export.targets:
        TARGETS.get(target)
    training_data.check_curation(recipe)
    reinforcing.refuse_unused(recipe)
    teachers = TeacherSet(recipe.teachers, random_weights=recipe.rehearse, seed=recipe.seed)
    CaptionerSet(recipe.captioners, recipe.reinforce.captioning, random_weights=recipe.rehearse, seed=recipe.seed)
    evaluate.check_data(recipe)
    out = out or default_out(recipe)
    if (
        not reinforcing.is_reinforced(Path(recipe.data))
        and not (out / reinforcing.REINFORCED / "manifest.json").exists()
    ):
        _check_output(out, resume=resume, overwrite=overwrite)
        with console.stage("load teachers"):
            teachers.loaded  # noqa: B018 - missing weights are reported before the run folder exists
    open_run(out, recipe, resume=resume, overwrite=overwrite)
    console.log_to(out / "log.txt")
    if recipe.rehearse:
        console.say(MARK)
    stored = reinforcing.reinforce_stage(recipe, teachers, out / reinforcing.REINFORCED, console)
    assert stored is not None  # it waits
    training_data.caption_stage(recipe, stored, out, console)
    selection = training_data.selection_stage(recipe, stored, out, console, wait=True)
    train.train_stages(recipe, stored, teachers, out, console, selection)
    models = evaluate.judged_models(recipe, teachers, out)
    evaluate.eval_stage(recipe, models, out, console)
    export.export_stage(recipe, out, console)
    profile.profile_stage(recipe, models, out, console)
    write_hashes(out)
    _keep_seconds(out, console)
    return report(out, console=console)


def _check_output(out: Path, *, resume: bool, overwrite: bool) -> None:
    from distill.run_folder import refuse_existing

    refuse_existing(out, resume=resume, overwrite=overwrite)


def _keep_seconds(out: Path, console: Console) -> None:
    """Stage times, kept over resumes; they differ from run to run and are in no hash."""
    file = out / "seconds.json"
    before = atomic.read_json(file) if file.exists() else {}
    atomic.write_json(file, {**before, **{name: round(value, 2) for name, value in console.seconds.items()}})

"""`distill eval`: retrieval and zero-shot figures of a student, a run, or any teacher."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill.console import Console
from distill.core.strict import Settings
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.verbs.flags import AnyPath, RecipeLike, recipe_of
from distill.verbs.results import EvalResult
from reinforced_data.source import opening_once

if TYPE_CHECKING:
    from distill.evaluation.evalset import Embedder
    from reinforced_data.source import Source


@opening_once()
def evaluate(
    model: AnyPath,
    recipe: RecipeLike = None,
    *,
    data: AnyPath | None = None,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str | Sequence[str] = (),
    limit: int | None = None,
    batch_size: int | None = None,
    settings: Settings = (),
    console: Console | None = None,
) -> EvalResult:
    """The figures of one model on the evaluation data of a recipe: see `distill.evaluation.metrics`.

    Args:
        model: a run, or any CLIP: a student or open_clip folder, "open_clip:MODEL/TAG" or "@CHECKPOINT", a teacher's name;
            or a folder of exported files, which are run one call per image and caption, as an app would.
        recipe: its data and eval tables are read; None = the run's own, or the embedded default's.
        data: where the samples lie; all of them are used, or its evaluation part where it names one.
        split: the part of the data to use instead ("test", "val", "train").
        image_column, caption_column: of the data, as of `distill.run`.
        limit, batch_size: at most so many images, so many at a time; eval.limit and eval.batch_size.
        settings: as of `distill.run`.

    Raises:
        UsageError: neither a folder nor a teacher is called so, or the data is not there.
    """
    from distill.evaluation.evalset import teacher_embedder
    from distill.processes import stage_device, this_place
    from distill.stages.evaluate import open_evaluation
    from distill.stages.exporting.any_model import load_any, model_name, run_of
    from distill.stages.exporting.files import exported_embedder, is_exported

    name, console = model_name(str(model)), console or Console()
    exported = is_exported(Path(name))
    run = run_of(str(Path(name).parent.parent) if exported else name) or RunFolder(name)
    own = run.read_recipe() if recipe is None and run.resolved.exists() else None
    if own is not None and data is None:
        recipe = own  # judged as it judged itself
    trained = (
        own if data is not None else None
    )  # judged by what it held out, and read by the columns that it was read by
    job = recipe_of(
        recipe,
        settings,
        data=trained and trained.data,
        image_column=trained and trained.image_column,
        caption_column=trained.caption_column if trained else (),
        eval_data=data,
        eval_split=split,
        eval_limit=limit,
        eval_batch_size=batch_size,
        eval_image_column=image_column,
        eval_caption_column=caption_column,
    )
    path, device = Path(name), stage_device(job.eval.device, this_place())
    opened = open_evaluation(job)  # before a teacher is downloaded
    if exported:
        with exported_embedder(path, job.profile.threads) as embedder:
            return _judge(embedder, job, opened, console, "its own runtime", run)
    embedder = replace(teacher_embedder(load_any(name).to(device)), name=str(model))
    return _judge(embedder, job, opened, console, device, run)


def _judge(
    model: "Embedder",
    job: Recipe,
    opened: "list[tuple[str, str, Source]]",
    console: Console,
    where: str,
    run: RunFolder,
) -> EvalResult:
    from distill.evaluation.evalset import evaluate_model
    from distill.stages.evaluate import open_evalset, tell_seen
    from distill.stages.read_data import told_how_read

    told = {role: told_how_read(f"{role} data", place, source, console) for role, place, source in opened}
    console.say(f"{model.name} is judged on {where}.")
    with console.stage("evaluate"):
        samples = open_evalset(job)
        found = evaluate_model(model, samples, job.eval.batch_size)
    return EvalResult(found["model"], found["retrieval"], found["zero_shot"], told, tell_seen(run, samples, console))

"""Labelling a data set: a process's share of it, the teachers' scales, an executor's tasks, the check of what was stored."""

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.existing import Existing
from distill.core.machine import usable_cores
from distill.models import CaptionerSet, TeacherSet
from distill.processes import Place, processes_here, stage_device, this_place, wait_until
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.opening import keep_recipe
from reinforced_data.store.names import PLAN_FILE

if TYPE_CHECKING:
    from reinforced_data.source import ColumnNames, Source

PUBLISHED = "datacompdr:"


def label(
    recipe: Recipe, teachers: TeacherSet, set_folder: Path, console: Console, place: Place, *, extend: bool = False
) -> None:
    """This process's share of the shards, and the manifest when all are there."""
    from reinforced_data.labelling.reinforce import work

    if is_published(recipe.data):
        if place.rank == 0:
            import_stage(recipe, set_folder, console)
        else:  # one process is enough; the others only see it begin
            wait_until((set_folder / PLAN_FILE).is_file, f"the first process to plan {str(set_folder)!r}")
        return
    source, models, captioners = _prepare(recipe, teachers, set_folder, console, place, extend)
    workers = _workers(recipe, models, console)
    with console.stage("reinforce") as advance:
        work(
            source,
            models,
            set_folder,
            captioners=captioners,
            rank=place.rank,
            world=place.world,
            progress=advance,
            workers=workers,
        )


def _workers(recipe: Recipe, models: list[Any], console: Console) -> int:
    """How many processes make samples ready for this process's models; a number that was chosen is said with its reason."""
    from reinforced_data.labelling.preparation.ahead import enough_workers

    if recipe.reinforce.workers != "auto":
        return recipe.reinforce.workers
    cluster = recipe.cluster
    tasks_here = cluster.workers if cluster.executor == "local" else 1  # of Slurm and Ray each task has its own cores
    gpu = any(str(model.device).startswith("cuda") for model in models)
    workers, why = enough_workers(
        usable_cores(), processes_here() if cluster.executor == "none" else tasks_here, gpu=gpu
    )
    if gpu:
        console.say(f"reinforce.workers = {workers} ({why})")
    return workers


def is_published(data: str) -> bool:
    """Whether `data` names a set that others reinforced: DataCompDR's layout, "datacompdr:TARS"."""
    return data.startswith(PUBLISHED)


def column_names(recipe: Recipe) -> "ColumnNames":
    """Which columns of the training data hold what, as far as the recipe says."""
    from reinforced_data.source import ColumnNames

    return ColumnNames(recipe.image_column, recipe.caption_column, recipe.reinforce.caption_columns)


def open_data(recipe: Recipe, split: str = "train") -> "Source":
    """The recipe's data, which is no reinforced set; of what is not trained on, real captions alone and without a limit.

    Raises what `open_source` raises.
    """
    from reinforced_data.source import open_source

    columns = column_names(recipe)
    if split != "train":
        return open_source(recipe.data, split, columns=columns.real())
    return open_source(recipe.data, split, recipe.limit, columns=columns)


def import_stage(recipe: Recipe, set_folder: Path, console: Console) -> None:
    """A published set as one of ours: what it stores is taken as it is, no teacher runs."""
    from reinforced_data.published.imported import import_published, open_published
    from reinforced_data.source import open_source

    settings = recipe.reinforce
    sources = [open_source(settings.images, part) for part in ("train", "eval")] if settings.images else []
    teacher_names = () if recipe.teachers == Recipe().teachers else recipe.teachers
    with console.stage("import the published set") as advance:
        import_published(
            open_published(recipe.data.removeprefix(PUBLISHED), sources, teacher_names),
            set_folder,
            settings,
            existing=Existing.RESUME,
            progress=advance,
        )


def _prepare(
    recipe: Recipe, teachers: TeacherSet, set_folder: Path, console: Console, place: Place, extend: bool
) -> tuple[Any, list[Any], list[Any]]:
    """The source, the models, and a planned folder."""
    from reinforced_data.labelling.plan import make_plan
    from reinforced_data.labelling.precision import refuse_coarse
    from reinforced_data.store.folder import open_output
    from reinforced_data.store.manifest import is_planned

    settings = recipe.reinforce
    with console.stage("load teachers"):
        device = stage_device(settings.device, place)
        models: list[Any] = list(teachers.on(device))
        captioners: list[Any] = CaptionerSet(
            recipe.captioners, settings.captioning, random_weights=recipe.rehearse, seed=recipe.seed
        ).loaded
        for captioner in captioners:
            captioner.to(device)
    console.say(f"Labelling runs on {device}.")
    models = scaled_teachers(recipe, models, set_folder, console)
    source = open_data(recipe)
    plan = make_plan(source, models, captioners, settings, recipe.seed, column_names(recipe).real().to_json())
    if place.rank == 0:
        refuse_coarse(source, models, plan)
        open_output(set_folder, plan, Existing.EXTEND if extend else Existing.RESUME)
        if extend:
            keep_recipe(RunFolder(set_folder.parent), recipe)
    else:
        wait_until(lambda: is_planned(set_folder, plan), f"the first process to plan {str(set_folder)!r}")
    return source, models, captioners


def scaled_teachers(recipe: Recipe, models: list[Any], set_folder: Path, console: Console) -> list[Any]:
    """The teachers under the logit scales that the set in `set_folder` is to record; fitted ones are fitted once."""
    from reinforced_data.labelling.calibrate import calibrated

    which, plan = recipe.reinforce.calibrate, set_folder / PLAN_FILE
    known = atomic.read_json(plan)["teachers"] if plan.exists() else ()
    with console.stage("calibrate logit scales") if which else contextlib.nullcontext():
        return list(
            calibrated(
                models,
                open_data(recipe, "eval") if which else None,
                recipe.reinforce,
                which=which,
                batch_size=recipe.train.batch_size,
                seed=recipe.seed,
                known=known,
            )
        )


def cluster_stage(recipe: Recipe) -> str:
    """What the console calls the labelling by an executor."""
    return f"reinforce in {recipe.cluster.tasks} tasks ({recipe.cluster.executor})"


def label_on_cluster(
    recipe: Recipe, teachers: TeacherSet, set_folder: Path, console: Console, *, extend: bool = False
) -> bool:
    """Have an executor's tasks label the data; True when the set is finished, False when a batch system took the job.

    The plan is written here, before any task begins. Tasks share nothing but the folder `set_folder`.

    Raises DistillError when a task failed, UsageError when the executor is not installed.
    """
    from reinforced_data.labelling.cluster.executors import run_tasks
    from reinforced_data.labelling.reinforce import finish, shards_made

    cluster = recipe.cluster
    _prepare(recipe, teachers, set_folder, console, Place(), extend)
    task = partial(
        label_task, recipe.model_dump_json(), str(set_folder.absolute()), os.getcwd(), cluster.threads_per_task
    )
    with console.stage(cluster_stage(recipe)) as advance:
        return run_tasks(
            task,
            cluster,
            RunFolder(set_folder.parent).cluster_logs,
            finished=lambda: finish(set_folder) is not None,
            look=lambda: advance(*shards_made(set_folder), "shards"),
        )


def label_task(recipe_json: str, set_folder: str, folder: str, threads: int | None, rank: int, world: int) -> None:
    """One task of `label_on_cluster`, in a process or on a machine of its own: its share of the shards of `set_folder`.

    Raises DistillError or UsageError when the models or versions there are not those of the plan.
    """
    import torch
    from loguru import logger  # which datatrove makes write to the task's log

    os.chdir(folder)  # relative names of data and teachers mean what they meant where the job was given
    if threads:
        torch.set_num_threads(threads)
    recipe = Recipe.model_validate_json(recipe_json)
    teachers = TeacherSet(recipe.teachers, random_weights=recipe.rehearse, seed=recipe.seed)
    label(recipe, teachers, Path(set_folder), Console(logger.info), Place(rank, world, rank))


def verify_stage(recipe: Recipe, teachers: TeacherSet, set_folder: Path, console: Console) -> None:
    """reinforced-verify.json beside the set: made when it is missing, did not pass, or was of another set or number of views.

    Raises DistillError when the stored embeddings are not those of the live teachers.
    """
    from reinforced_data.labelling.verify import require_passed, verify
    from reinforced_data.store.identity import SET_KEY, fresh, set_identity
    from reinforced_data.store.reader import ReinforcedData

    file, views = RunFolder(set_folder.parent).verify, recipe.reinforce.verify
    before = atomic.read_json(file) if file.exists() else {}
    if is_published(recipe.data):
        return  # its teachers' own preprocessing and the captions that they read are not known well enough to judge
    identity = set_identity(ReinforcedData(set_folder).manifest)
    if not fresh(before, identity):
        file.unlink(missing_ok=True)  # what was found of the set before it was extended says nothing of it now
        before = {}
    if views == 0 or (before.get("passed") and before.get("asked") == views):
        return
    with console.stage("verify stored embeddings"):
        models = teachers.on(stage_device(recipe.reinforce.device, this_place()))
        report = {SET_KEY: identity, **verify(set_folder, models, views, recipe.seed)}
        atomic.write_json(file, report, shared=True)
        require_passed(report, str(set_folder))

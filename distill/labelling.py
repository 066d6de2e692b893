"""What goes round the labelling of a data set: scales of teachers, the check of what was stored, work on a cluster."""

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.models import TeacherSet
from distill.recipe import Recipe

VERIFY_FILE = "reinforced-verify.json"
CLUSTER_LOGS = "cluster"


def verify_stage(recipe: Recipe, teachers: TeacherSet, stored: Path, console: Console) -> None:
    """reinforced-verify.json beside the set: made when it is missing, did not pass, or was of another number of views.

    Raises DistillError when the stored embeddings are not those of the live teachers.
    """
    from reinforced_data.verify import require_passed, verify

    file, views = stored.parent / VERIFY_FILE, recipe.reinforce.verify
    before = atomic.read_json(file) if file.exists() else {}
    if views == 0 or (before.get("passed") and before.get("asked") == views):
        return
    with console.stage("verify stored embeddings"):
        report = verify(stored, teachers.loaded, views, recipe.seed)
        atomic.write_json(file, report)
        require_passed(report, str(stored))


def scaled_teachers(recipe: Recipe, teachers: TeacherSet, out: Path, console: Console) -> "list[Any]":
    """The teachers under the logit scales that the set in `out` is to record; fitted ones are fitted once."""
    from reinforced_data.calibrate import calibrated
    from reinforced_data.open import open_source

    which = recipe.reinforce.calibrate
    known = atomic.read_json(out / "plan.json")["teachers"] if (out / "plan.json").exists() else ()
    with console.stage("load teachers"):
        models = teachers.loaded
    with console.stage("calibrate logit scales") if which else contextlib.nullcontext():
        return calibrated(
            models,
            open_source(recipe.data, "eval") if which else None,
            which=which,
            view_preset=recipe.reinforce.view_preset,
            batch_size=recipe.train.batch_size,
            forward_size=recipe.reinforce.batch_size,
            seed=recipe.seed,
            known=known,
        )


def label_on_cluster(recipe: Recipe, teachers: TeacherSet, out: Path, console: Console) -> bool:
    """Have an executor's tasks label the data; True when the set is finished, False when a batch system took the job.

    The plan is written here, before any task begins. Tasks share nothing but the folder `out`.

    Raises DistillError when a task failed or the executor is not installed.
    """
    from reinforced_data.cluster import Cluster, run_tasks
    from reinforced_data.output import open_output
    from reinforced_data.write import finish

    settings = Cluster(**recipe.cluster.model_dump())
    models = scaled_teachers(recipe, teachers, out, console)
    with console.stage("plan"):
        open_output(out, _plan(recipe, models), resume=out.exists())
    task = partial(label_task, recipe.model_dump_json(), str(out.absolute()), os.getcwd(), settings.threads_per_task)
    with console.stage(f"reinforce in {settings.tasks} tasks ({settings.executor})"):
        return run_tasks(task, settings, out.parent / CLUSTER_LOGS, finished=lambda: finish(out) is not None)


def label_task(recipe_json: str, out: str, folder: str, threads: int | None, rank: int, world: int) -> None:
    """One task of `label_on_cluster`, in a process or on a machine of its own: its share of the shards of `out`.

    Raises UsageError when the models or versions there are not those of the plan.
    """
    import torch

    from reinforced_data.manifest import differences, read_plan
    from reinforced_data.open import open_source
    from reinforced_data.write import work

    os.chdir(folder)  # relative names of data and teachers mean what they meant where the job was given
    if threads:
        torch.set_num_threads(threads)
    recipe = Recipe.model_validate_json(recipe_json)
    teachers = TeacherSet(recipe.teachers, random_weights=recipe.rehearse, seed=recipe.seed)
    models = scaled_teachers(recipe, teachers, Path(out), Console())
    differing = differences(read_plan(Path(out)), _plan(recipe, models))
    if differing:
        raise UsageError(
            f"Task {rank} of {world} would not make the bytes that the plan of {out!r} asks for: {'; '.join(differing)}. "
            "Install the same versions and weights on every machine."
        )
    work(open_source(recipe.data, "train", recipe.limit), models, Path(out), rank=rank, world=world)


def _plan(recipe: Recipe, models: "list[Any]") -> Any:
    from reinforced_data.open import open_source
    from reinforced_data.plan import make_plan

    settings = recipe.reinforce
    return make_plan(
        open_source(recipe.data, "train", recipe.limit),
        models,
        (),
        views_per_image=settings.views_per_image,
        view_preset=settings.view_preset,
        embed_dtype=settings.embed_dtype,
        shard_size=settings.shard_size,
        batch_size=settings.batch_size,
        seed=recipe.seed,
    )

"""From the words of a call to its recipe: one table of flags for the command line and for Python alike."""

import os
from collections.abc import Sequence
from typing import Any

from distill.core.errors import UsageError, nearest
from distill.core.existing import Existing
from distill.core.strict import Settings
from distill.recipe import Recipe, load_recipe
from distill.run_folder import VERBS, RunFolder
from distill.stages.training import checkpoint_files as checkpoint_files  # makes "student:..." and "timm:..." known

AnyPath = str | os.PathLike[str]
OneOrMore = AnyPath | Sequence[AnyPath]
RecipeLike = Recipe | AnyPath | None  # a recipe, a TOML file, the name of a shipped one; None = the embedded default

_KEYS = {
    "data": "data",
    "image_column": "image_column",
    "eval_image_column": "eval.image_column",
    "eval_data": "eval.data",
    "eval_split": "eval.split",
    "eval_limit": "eval.limit",
    "eval_batch_size": "eval.batch_size",
    "student": "student.name",
    "image_size": "student.image_size",
    "epochs": "train.epochs",
    "steps": "train.steps",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "workers": "train.workers",
    "seed": "seed",
    "max_latency": "choose.max_latency",
    "max_size": "choose.max_size",
    "max_memory": "choose.max_memory",
    "max_drop": "export.max_drop",
    "max_mb": "export.max_mb",
    "classes": "export.classes",
    "batch": "export.batch",
    "lan": "profile.lan",
    "port": "profile.port",
    "rehearse": "rehearse",
    "verify": "reinforce.verify",
    "calibrate": "reinforce.calibrate",
    "executor": "cluster.executor",
    "tasks": "cluster.tasks",
    "tasks_at_once": "cluster.workers",
    "slurm_partition": "cluster.slurm_partition",
}
_LIST_KEYS = {
    "teacher": "teachers",
    "captioner": "captioners",
    "caption_column": "caption_column",
    "eval_caption_column": "eval.caption_column",
    "filter": "filters",
    "target": "export.targets",
    "precision": "export.precisions",
    "template": "export.templates",
    "device": "profile.devices",
    "runner": "profile.runners",
}
_BY_COMMA = ("target", "precision", "device")  # "onnx,litert" is two, as in other tools: these names hold no comma


def flagged(**flags: Any) -> dict[str, Any]:
    """The recipe keys that the given flags set, dotted; flags that were not given (None, False, none of a list) set none."""
    given: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None or value is False or (not isinstance(value, str) and value in ((), [])):
            continue
        if "" in (value if isinstance(value, list | tuple) else [value]):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is empty, as from a variable that is not set. Give it a value, or leave it out.")
        if name in _LIST_KEYS:
            several = [value] if isinstance(value, str | os.PathLike) else list(value)
            words = [os.fspath(item) for item in several]
            if name in _BY_COMMA:
                words = [word.strip() for item in words for word in item.split(",") if word.strip()]
            given[_LIST_KEYS[name]] = words
        else:
            given[_KEYS[name]] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return given


def recipe_of(recipe: RecipeLike, settings: Settings, **flags: Any) -> Recipe:
    """The recipe of a call; settings win over flags, flags over the recipe. Raises what `load_recipe` raises."""
    return _with_data(load_recipe(recipe, settings, flagged(**flags)))


def recipe_to_go_on(
    verb: str,
    run: RunFolder,
    existing: Existing,
    recipe: RecipeLike,
    settings: Settings,
    *,
    may_begin: bool = False,
    **flags: Any,
) -> Recipe:
    """`recipe_of` for a verb that works in a run folder: a call that resumes or extends begins with the run's own recipe.

    So `--resume` alone goes on with the run as it was. What the call says besides is laid over that recipe; whether the
    run takes it is seen when it is opened. A call that brings a recipe says all of it anew.

    Args:
        may_begin: a call without any words is a whole one: that of the default job in its own folder.

    Raises UsageError when a call says no more than that it resumes, and there is no run, or another verb's.
    """
    given = flagged(**flags)
    if recipe is not None or existing not in (Existing.RESUME, Existing.EXTEND):
        return _with_data(load_recipe(recipe, settings, given))
    if not (given or settings) and not may_begin:
        _refuse_alone(verb, run, existing)
    if not run.resolved.exists():
        return _with_data(load_recipe(None, settings, given))
    base = run.read_recipe() if verb == "reinforce" else run.said_recipe()  # the others fill it in again
    return _with_data(load_recipe(base, settings, given))


def _with_data(job: Recipe) -> Recipe:
    """The recipe itself. Raises UsageError where its data is a run, which holds data only when it has made a set."""
    run = RunFolder(job.data)
    if run.resolved.is_file():  # one with a set stands for its set already, see `load_recipe`
        raise UsageError(
            f"The data {job.data!r} is a run of distill without a reinforced set: looked for {run.reinforced.name}/ in it. "
            f"Make the set first (distill reinforce), or name the data that the run was made of: --data {run.read_recipe().data}."
        )
    return job


def _refuse_alone(verb: str, run: RunFolder, existing: Existing) -> None:
    """Raise UsageError where the bare words `distill VERB --resume` have nothing to go on with."""
    if not run.resolved.exists():
        beside = run.path.absolute().parent
        names = [path.name for path in beside.iterdir() if RunFolder(path).resolved.exists()] if beside.is_dir() else []
        near = f" {nearest(run.path.name, names)}" if names else ""
        raise UsageError(
            f"There is no run in {str(run)!r} to go on with: looked for {str(run.resolved)!r}.{near} To begin one, say what it "
            f"is made of (distill {verb} --help)."
        )
    begun = run.verb()
    if begun and VERBS.index(verb) > VERBS.index(begun):
        other = (
            f"To use what it made: distill {verb} --data {run} --out ANOTHER."
            if begun == "reinforce"
            else run.widened()
        )
        raise UsageError(
            f"{str(run)!r} was begun by distill {begun}, and its recipe says nothing of the rest. Go on with it: "
            f"{run.command()}. {other}"
        )

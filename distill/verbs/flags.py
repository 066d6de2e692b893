"""From the words of a call to its recipe: one table of flags for the command line and for Python alike."""

import os
from collections.abc import Sequence
from typing import Any

from distill.core.strict import Settings
from distill.recipe import Recipe, load_recipe

AnyPath = str | os.PathLike[str]
OneOrMore = AnyPath | Sequence[AnyPath]
RecipeLike = Recipe | AnyPath | None  # a recipe, a TOML file, the name of a shipped one; None = the embedded default

_KEYS = {
    "data": "data",
    "eval_data": "eval.data",
    "eval_split": "eval.split",
    "student": "student.name",
    "rehearse": "rehearse",
    "verify": "reinforce.verify",
    "calibrate": "reinforce.calibrate",
    "executor": "cluster.executor",
    "tasks": "cluster.tasks",
    "workers": "cluster.workers",
    "slurm_partition": "cluster.slurm_partition",
}
_LIST_KEYS = {
    "teacher": "teachers",
    "captioner": "captioners",
    "filter": "filters",
    "target": "export.targets",
    "precision": "export.precisions",
    "device": "profile.devices",
}


def flagged(**flags: Any) -> dict[str, Any]:
    """The recipe keys that the given flags set, dotted; flags that were not given (None, False, none of a list) set none."""
    given: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None or value is False or (not isinstance(value, str) and value in ((), [])):
            continue
        if name in _LIST_KEYS:
            several = [value] if isinstance(value, str | os.PathLike) else list(value)
            given[_LIST_KEYS[name]] = [os.fspath(item) for item in several]
        else:
            given[_KEYS[name]] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return given


def recipe_of(recipe: RecipeLike, settings: Settings, **flags: Any) -> Recipe:
    """The recipe of a call; settings win over flags, flags over the recipe. Raises what `load_recipe` raises."""
    return load_recipe(recipe, settings, flagged(**flags))

"""Places of data and models in a recipe, made absolute, so that its run can be used from any working folder.

Which key holds a place of which kind is one table, `PLACES`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.core.strict import Strict
from distill.recipe.tables import PLAN, Recipe
from export.settings import NO_CLASSES
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE, SET_FOLDER


def with_absolute_places(recipe: Recipe) -> Recipe:
    """The recipe with every place in it absolute; what names no place stays as it is."""
    for key, absolute in PLACES.items():
        recipe = _changed(recipe, key.split("."), absolute)
    return recipe


def _changed(table: Any, keys: list[str], absolute: Callable[[Any], Any]) -> Any:
    """The table with `absolute` done to the value of a dotted key: to a text, to each of several, to a whole mapping."""
    own, *inner = keys
    value = getattr(table, own)
    if isinstance(value, Strict):
        moved = _changed(value, inner, absolute)
    elif isinstance(value, tuple):
        moved = tuple(map(absolute, value))
    else:
        moved = absolute(value) if value else value
    return table if moved == value else table.model_copy(update={own: moved})


def _data(place: str) -> str:
    """A place of data; a run that made a reinforced set stands for that set."""
    from reinforced_data.source import absolute_place

    place = absolute_place(place)
    inside = Path(place) / SET_FOLDER
    return str(inside) if any((inside / name).is_file() for name in (PLAN_FILE, MANIFEST_FILE)) else place


def _file(name: str) -> str:
    return str(Path(name).expanduser().absolute())


def _selection(name: str) -> str:
    return name if name == "none" else _file(name)


def _classes(name: str) -> str:
    return name if name == NO_CLASSES else _file(name)


def _vocabulary(name: str) -> str:
    return _file(name) if name.endswith(".gz") else name


def _inherit(strategy: str) -> str:
    return PLAN + _file(strategy.removeprefix(PLAN)) if strategy.startswith(PLAN) else strategy


def _runner(name: str) -> str:
    from teachers.spec import absolute_path

    return absolute_path(name)


def _teacher(name: str) -> str:
    from teachers.load import absolute_teacher

    return absolute_teacher(name)


def _captioner(name: str) -> str:
    from teachers.load_captioner import absolute_captioner

    return absolute_captioner(name)


def _caption_weights(weights: dict[str, float]) -> dict[str, float]:
    """Weights by source of captions, where a source is a captioner named by its path."""
    moved = {}
    for source, weight in weights.items():
        kind, _, name = source.partition(":")
        moved[f"{kind}:{_captioner(name)}" if os.sep in name else source] = weight
    return moved


def _texts(name: str) -> str:
    from reinforced_data.labelling.unpaired import absolute_texts

    return absolute_texts(name)


def _filter(name: str) -> str:
    from reinforced_data.curation.filter import absolute_filter

    return absolute_filter(name)


DATA = ("data", "eval.data", "eval.zero_shot", "reinforce.images")  # places of data, whose content has a fingerprint
PLACES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(DATA, _data),
    "reinforce.texts": _texts,
    "teachers": _teacher,
    "student.inherit_from": _teacher,
    "captioners": _captioner,
    "captions.weights": _caption_weights,
    "filters": _filter,
    "selection": _selection,
    "student.inherit": _inherit,
    "student.tokenizer": _file,
    "student.corpus": _file,
    "student.vocabulary": _vocabulary,
    "export.classes": _classes,
    "profile.runners": _runner,
}

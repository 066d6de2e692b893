"""Reading a recipe: a file, a shipped one by its name, or the default; then flags and settings on top."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.core.errors import UsageError, nearest
from distill.core.strict import Settings, apply_settings, load_toml, parse
from distill.recipe.places import with_absolute_places
from distill.recipe.tables import LENGTHS, Recipe

RECIPES = Path(__file__).parents[1] / "recipes"


def find_recipe(name: str) -> Path:
    """A recipe's path: an existing file, or the name of one that ships in distill/recipes/."""
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return path
    shipped = {file.stem: file for file in RECIPES.glob("*.toml")}
    if name not in shipped:
        raise UsageError(f"There is no recipe {name!r}. {nearest(name, shipped)} A path to a .toml file works too.")
    return shipped[name]


def load_recipe(
    recipe: Recipe | str | os.PathLike[str] | None = None,
    settings: Settings = (),
    given: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a call: what it starts from, then the flags `given`, then each setting.

    Args:
        recipe: a path, a shipped recipe's name, or a `Recipe`; None for the embedded default.
        settings: {"train.steps": 100}, or "train.steps=100" strings as after --set.
        given: dotted key -> value for the flags that were given; None values are dropped.

    Raises:
        UsageError: there is no such recipe, or a key or value is wrong; it names the key and the nearest known one.
    """
    where = "recipe"
    if recipe is None:
        values: dict[str, Any] = {}
    elif isinstance(recipe, Recipe):
        values = recipe.model_dump(mode="json", exclude_unset=True)
    else:
        values, where = load_toml(find_recipe(os.fspath(recipe))), f"recipe {os.fspath(recipe)}"
    if isinstance(values.get("student"), str):
        values["student"] = {"name": values["student"]}
    flags = {key: value for key, value in (given or {}).items() if value is not None}
    said = apply_settings(apply_settings({}, flags), settings)
    values = apply_settings(apply_settings(_without_length(values, said), flags), settings)
    return with_absolute_places(parse(Recipe, values, where))


def _without_length(values: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values without the length of training where the call says it anew, by whichever of the words."""
    train, own = said.get("train"), values.get("train")
    if not (isinstance(train, dict) and isinstance(own, dict)) or all(train.get(name) is None for name in LENGTHS):
        return values
    return {**values, "train": {key: value for key, value in own.items() if key not in LENGTHS}}

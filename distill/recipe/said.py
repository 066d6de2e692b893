"""Which keys of a recipe somebody said, and values for the others."""

from typing import Any

from distill.core.strict import apply_settings, parse
from distill.recipe.tables import LENGTHS, Recipe

Filled = dict[str, str]  # a recipe's dotted key -> why it has the value that it has


def is_set(recipe: Recipe, key: str) -> bool:
    """Whether the recipe's file, a flag or --set names the key."""
    section, _, name = key.rpartition(".")
    if section:
        return section in recipe.model_fields_set and name in getattr(recipe, section).model_fields_set
    return name in recipe.model_fields_set


def said_lengths(recipe: Recipe) -> list[str]:
    """Which of `LENGTHS` the recipe says; one that is there as None, as in the recipe that a run keeps, says nothing."""
    return [name for name in LENGTHS if is_set(recipe, f"train.{name}") and getattr(recipe.train, name) is not None]


def put(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with these values, dotted key -> value. Raises UsageError for one that its key does not take."""
    return parse(Recipe, apply_settings(recipe.model_dump(mode="json", exclude_unset=True), values), "recipe")


def kept_values(recipe: Recipe, kept: dict[str, Any]) -> tuple[Recipe, Filled]:
    """The recipe with what a resumed run had filled in, for the keys that the call leaves out.

    Args:
        kept: resolved.json of the run; one of an older version filled nothing in, and gets nothing.
    """
    filled: Filled = dict(kept.get("filled", {}))
    said_length = bool(said_lengths(recipe))
    values = {}
    for key in filled:
        section, _, name = key.rpartition(".")
        table = kept["recipe"][section] if section else kept["recipe"]
        if not is_set(recipe, key) and not (key == "train.steps" and said_length):
            values[key] = table[name]
    return put(recipe, values), {key: reason for key, reason in filled.items() if key in values}

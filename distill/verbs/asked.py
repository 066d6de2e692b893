"""What `distill export` and `distill profile` were asked, kept where they work, so that --resume goes on by the folder alone.

The rule is that of the verbs that make a run: what a call says besides is laid over the words of before, and must agree with
them; where nothing of before is finished, it need not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.errors import DamagedError
from distill.core.strict import Settings
from distill.recipe import Recipe
from distill.recipe.kept import as_recipe, differing_keys, refuse_other_settings
from distill.verbs.flags import RecipeLike, recipe_of

WITHOUT = "call without --resume."


@dataclass(frozen=True)
class Asked:
    """The words of a call.

    Attributes:
        recipe: with every default, as the call meant it.
        model: that was named, and the same by a name that means it from every working folder; None = what lies in the folder.
    """

    recipe: Recipe
    model: tuple[str, str] | None = None


def read_asked(file: Path) -> Asked | None:
    """The words of the last call, None where none are kept. Raises DamagedError for a file that holds no such words."""
    if not file.exists():
        return None
    record = atomic.read_json(file)
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise DamagedError(f"{str(file)!r} does not hold what was asked. Remove it, and call with all words.")
    model = record.get("model")
    return Asked(as_recipe(record["recipe"], file), None if model is None else (str(model[0]), str(model[1])))


def keep_asked(file: Path, recipe: Recipe, model: tuple[str, str] | None = None) -> None:
    """Write the words of a call, before its work begins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(file, {"model": model, "recipe": recipe.model_dump(mode="json")})


def recipe_by(
    before: Asked | None, recipe: RecipeLike, own: Recipe | None, settings: Settings, flags: Mapping[str, Any]
) -> Recipe:
    """The recipe of a call: its words over those of before where it goes on, else over `recipe`, else over `own`.

    Args:
        before: what it goes on with; None = it begins.
        own: of the folder, where the call names no recipe; None = the default's.
    """
    base = recipe if recipe is not None else own if before is None else before.recipe
    return recipe_of(base, settings, **flags)


def refuse_others(place: Path, before: Asked | None, recipe: Recipe, *, finished: bool) -> None:
    """Raise UsageError, naming the keys, where a call that goes on is another one than was begun in `place`.

    Args:
        finished: whether anything of before is; where nothing is, there is nothing that the call could contradict.
    """
    if before is None or not finished:
        return
    words = before.recipe.model_dump(mode="json")
    if keys := differing_keys(words, recipe.model_dump(mode="json")):
        refuse_other_settings(place, words, keys, WITHOUT)

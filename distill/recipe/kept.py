"""A recipe that a run keeps: read by a later version, and compared with what a call says now."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.core.errors import DamagedError, UsageError
from distill.recipe.places import DATA
from distill.recipe.tables import Recipe

# What runs did that are older than a key, where that is not its default.
BEFORE_THE_CHOICE = {"reinforce.rendering": "pillow", "train.compile": False}
# What may differ between a run and its continuation without making it another job.
FREE_TO_CHANGE = (
    "profile",
    "cluster",
    "reinforce.verify",
    "reinforce.workers",
    "export",
    "lint",
    "train.workers",
    "train.log_every",
    "train.sharding",
    "train.trackers",
    "train.keep_",
    "train.checkpoint_minutes",
)


def as_recipe(values: dict[str, Any], file: Path) -> Recipe:
    """The recipe that a record holds, also one of a version that lacks keys of today. Raises DamagedError, naming the file."""
    for key, value in BEFORE_THE_CHOICE.items():
        section, _, name = key.partition(".")
        if isinstance(values.setdefault(section, {}), dict):
            values[section].setdefault(name, value)
    try:
        return Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise DamagedError(
            f"{str(file)!r} holds a recipe that this version of distill-edge cannot read, at {keys}. Use the version "
            "that wrote it, or begin another run."
        ) from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in value.items():
        result |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return result


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ, apart from those free to change.

    A key that an older version lacks has its default, or what was done before it could be said.
    """
    defaults = {**_flat(Recipe().model_dump(mode="json")), **BEFORE_THE_CHOICE}
    a, b = _flat(old), _flat(new)
    pairs = {key: [values.get(key, defaults.get(key)) for values in (a, b)] for key in sorted({*a, *b})}
    keys = [key for key, (was, now) in pairs.items() if was != now and not _moved(key, was, now)]
    return [key for key in keys if not key.startswith(FREE_TO_CHANGE)]


def refuse_other_settings(place: Path, before: dict[str, Any], keys: list[str], otherwise: str) -> None:
    """Raise UsageError for a call that would go on with the work in `place` by other words than it was started with.

    Args:
        before: the words (a recipe) that it was started with.
        keys: that differ, dotted.
        otherwise: what else the caller may do, a sentence's end.
    """
    own = _flat(before)
    was = ", ".join(f"{key} = {json.dumps(own.get(key), ensure_ascii=False)}" for key in keys)
    raise UsageError(
        f"{str(place)!r} was started with other settings: {', '.join(keys)}. Resume with its own ({was}), which a call "
        f"that leaves them out does, or {otherwise}"
    )


def _moved(key: str, old: Any, new: Any) -> bool:
    """Whether two places of data may be one: written differently, or the old one is gone (fingerprints guard the content)."""
    if key not in DATA or not isinstance(old, str) or not isinstance(new, str) or not Path(new).exists():
        return False
    return (
        Path(old).is_absolute() != Path(new).is_absolute() and Path(old).absolute() == Path(new).absolute()
    ) or not (Path(old).exists() or ":" in old)


def move_places(kept: dict[str, Any], now: dict[str, Any]) -> bool:
    """Write the places of data of the recipe `now` into one that is kept; returns whether any differs."""
    before, after = _flat(kept), _flat(now)
    changed = [key for key in DATA if before.get(key) != after.get(key)]
    for key in changed:
        table, _, name = key.rpartition(".")
        (kept[table] if table else kept)[name] = after[key]
    return bool(changed)

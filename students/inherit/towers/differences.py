"""What differs in kind between a source's tower and a student's: what slicing cannot bridge, and what it may."""

from typing import Any

from distill.core.errors import UsageError
from students.inherit.towers.tower import NOUNS, Tower

FACTS = (
    "activation", "causal", "pooling", "class_token", "head_width", "patch_size", "image_size", "context_length", "vocabulary",
)  # fmt: skip
"""Facts in which a tower may differ from its source and inherit nevertheless, where measured better or allowed."""


def refuse_unbridgeable(old: Tower, new: Tower) -> None:
    """Raise UsageError, with the reason, where no selection of the source's weights makes the student's tower."""
    if old.norm_first != new.norm_first:
        places = {True: "before", False: "behind"}
        raise UsageError(
            f"its blocks normalise {places[old.norm_first]} attention and MLP in the source, {places[new.norm_first]} them here"
        )
    for axis in ("layers", "width", "ffn"):
        before, after = getattr(old, axis), getattr(new, axis)
        if after > before:
            raise UsageError(f"{axis} grows from {before} to {after}; inheritance only selects")
    if new.head_width > old.head_width and new.head_width % old.head_width:
        raise UsageError(
            f"head width grows from {old.head_width} to {new.head_width}, which is no multiple; inheritance only selects"
        )
    needed = new.heads * max(1, new.head_width // old.head_width)
    if needed > old.heads:
        raise UsageError(f"heads grow from {old.heads} to {needed} of {old.head_width}; inheritance only selects")
    missing = [role for role in new.places if role.startswith("blocks.0.") and not _found(role, old)]
    if missing:
        raise UsageError(f"the source's blocks have no {missing[0].removeprefix('blocks.0.')}")


def _found(role: str, old: Tower) -> bool:
    return role in old.places or role.endswith(".bias") or ".scale" in role


def differences(old: Tower, new: Tower, vocabulary: str | None) -> dict[str, str]:
    """Fact -> how the source differs from the student in it; empty where the tower is of the same kind.

    Args:
        old, new: the tower in source and student.
        vocabulary: how the vocabularies differ, None = they do not (or an image tower).
    """
    found: dict[str, str] = {}

    def note(fact: str, before: Any, after: Any) -> None:
        if before != after:
            found[fact] = f"{before} in the source, {after} here"

    for fact in ("activation", "causal", "pooling"):
        note(fact, old.kind.get(fact), new.kind.get(fact))
    note("head_width", old.head_width, new.head_width)
    note("class_token", "class" in old.places, "class" in new.places)
    if old.which == "visual":
        note("patch_size", old.patch, new.patch)
        grids = [_grid(tower) for tower in (old, new)]
        note("image_size", *(f"{grid} x {grid} patches" for grid in grids))
    elif new.positions - new.extra > old.positions - old.extra:
        note("context_length", old.positions - old.extra, new.positions - new.extra)
    if vocabulary is not None:
        found["vocabulary"] = vocabulary
    return found


def _grid(tower: Tower) -> int:
    return int((tower.positions - tower.extra) ** 0.5)


def describe(which: str, facts: dict[str, str]) -> str:
    """The differences of a tower in one sentence's words."""
    return f"{NOUNS[which]} tower: " + ", ".join(f"{fact.replace('_', ' ')} {how}" for fact, how in facts.items())

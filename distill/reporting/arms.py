"""What distillation buys and what inheritance buys: one student by four ways, as far as a run has measured them."""

from typing import Any

ARMS = (  # name, whether it inherits, whether it has a teacher
    ("plain", False, False),
    ("distilled, random start", False, True),
    ("inherited, no teacher", True, False),
    ("inherited and distilled", True, True),
)
COLUMNS = ("arm", "zero-shot top-1", "text-to-image R@1", "image-to-text R@1")
_KEYS = ("zero_shot_top1", "t2i_r1", "i2t_r1")


def arms(
    table: list[dict[str, Any]], inherited: dict[str, Any], objective_has_teacher: bool, baseline_inherits: bool
) -> list[dict[str, Any]]:
    """A row per arm, with None for each accuracy that was not measured.

    Args:
        table: the run's rows, one per model.
        inherited: what the student inherited.
        objective_has_teacher: whether the student's losses need one.
        baseline_inherits: whether the baseline starts from inherited weights too.
    """
    starts = bool(inherited.get("towers"))
    of_role = {
        "student": (starts, objective_has_teacher),
        "plain student": (starts and baseline_inherits, False),
        "random start": (False, objective_has_teacher),
        "no teacher": (True, False),
    }
    found = {of_role[row["role"]]: row for row in reversed(table) if row["role"] in of_role}
    result = []
    for name, inherits, taught in ARMS:
        row = found.get((inherits, taught), {})
        result.append({"arm": name, **{key: row.get(key) for key in _KEYS}, "measured": bool(row)})
    return result


def rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of strings per arm, in the order of `COLUMNS`."""
    return [
        (row["arm"], *("-" if row[key] is None else f"{row[key]:.1f}" for key in _KEYS))
        if row["measured"]
        else (row["arm"], *["not measured"] * len(_KEYS))
        for row in facts["arms"]
    ]


def note(facts: dict[str, Any]) -> str:
    """One line under the table: what it can tell."""
    skipped = facts["inherited"].get("skipped", {})
    if not facts["inherited"].get("towers"):
        why = "; ".join(f"{tower}: {reason}" for tower, reason in skipped.items()) or "student.inherit is none"
        return f"This student inherits nothing ({why}), so every arm of it starts at random."
    if all(row["measured"] for row in facts["arms"]):
        return "The same samples, views and captions in every arm; one seed."
    return (
        "The student both inherits and is distilled; the arms in between, which part the two effects, are measured by "
        "--set baseline.four_arms=true."
    )

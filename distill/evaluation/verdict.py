"""What a student's figures are worth: against chance, against the plain student and the other arms, against its teacher.

From the files in a run's eval/ to facts and one word of judgement; sentences are made of them in `distill.reporting.summary`.
Left out: where the files lie, and what a command is called.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.metrics import chance_r1, difference_interval, interval

METRICS = (
    ("zero_shot_top1", "zero_shot", "top1"),
    ("t2i_r1", "retrieval", "t2i_r1"),
)  # of a verdict, the first that there is
FEW_IMAGES = 100  # whose intervals are too wide to tell much
HALF = 50.0  # percent of the teacher's figure that a student is expected to keep

USABLE, FEW, FAR, SAME = "usable", "judged on few", "far from its teacher", "not distinguishable"
WORSE, CHANCE, ALONE = "worse", "no better than chance", "nothing beside it"


def hits_as_text(hits: NDArray[Any], owner: NDArray[np.integer[Any]] | None = None) -> str:
    """Of each query 1 (found) or 0, as one word; with `owner` [n], a word per image that queries belong to, in its order."""
    text = "".join("1" if hit else "0" for hit in hits)
    if owner is None:
        return text
    ends = np.cumsum(np.bincount(owner))
    return " ".join(text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))


def verdict(evals: list[dict[str, Any]], sizes: dict[str, float | None]) -> dict[str, Any] | None:
    """The facts of a verdict on the student among `evals` (as eval/*.json hold them); None where it has no figure.

    Args:
        evals: one per judged model; those on other data than the student's are not compared.
        sizes: megabytes by role, of models that say how many parameters they have.

    Returns:
        metric: what the rest is of, a key of `METRICS`. images: judged on. chance: percent.
        student, low, high: percent, and the 95 % interval. teacher, share, size_share: the (best) teacher's percent, and the
        student's share of it and of its size in percent; None without one. lost: whether that teacher is itself no better than
        chance; there is then no share. gains: of "plain", "inheritance", "distillation"
        and "training" (against its start), as far as those were trained or kept, "points", "low", "high" and whether the
        interval is "paired". seen: how many of the images were trained on, None = not known. word: the judgement, one of the
        words of this module.
    """
    by_role = {item["role"]: item for item in evals if item["role"] != "teacher"}
    student = by_role.get("student")
    found = None if student is None else next((names for names in METRICS if student[names[1]]), None)
    if student is None or found is None:
        return None
    metric, part, key = found
    figures = student[part]
    low, high = figures[f"{key}_ci95"]
    chance = 100 / figures["classes"] if part == "zero_shot" else chance_r1(figures)
    same = {role: item for role, item in by_role.items() if item.get("data") == student.get("data") and item[part]}
    teachers = [item for item in evals if item["role"] == "teacher" and item[part]]
    best = max(teachers, key=lambda item: item[part][key], default=None)
    against = {
        "plain": ("student", "plain"),
        "inheritance": ("student", "random-start"),
        "distillation": ("student", "no-teacher"),
        "training": ("student", "start"),
    }
    gains = {
        name: gain(same[one], same[other], found)
        for name, (one, other) in against.items()
        if one in same and other in same
    }
    lost = best is not None and best[part][f"{key}_ci95"][0] <= chance
    share = 100 * figures[key] / best[part][key] if best and not lost else None
    size, teacher_size = sizes.get("student"), sizes.get("teacher")
    return {
        "metric": metric,
        "images": figures["images"],
        "chance": chance,
        "student": figures[key],
        "low": low,
        "high": high,
        "teacher": best[part][key] if best else None,
        "share": share,
        "lost": lost,
        "size_share": 100 * size / teacher_size if size and teacher_size and len(teachers) == 1 else None,
        "gains": gains,
        "seen": student.get("seen_in_training"),
        "word": _word(low, chance, gains.get("plain"), share, figures["images"]),
    }


def _word(low: float, chance: float, plain: dict[str, Any] | None, share: float | None, images: int) -> str:
    if low <= chance:
        return CHANCE
    if plain is None:
        return ALONE
    if plain["high"] < 0:
        return WORSE
    if plain["low"] <= 0:
        return SAME
    if share is not None and share < HALF:
        return FAR
    return FEW if images < FEW_IMAGES else USABLE


def gain(one: dict[str, Any], other: dict[str, Any], found: tuple[str, str, str]) -> dict[str, Any]:
    """Points by which a model is better than another on the same data, with a 95 % interval.

    The interval is of the differences query by query (a paired bootstrap over images) where both files say which queries
    were found; files of older versions do not, and the interval is made of their two, which is wider.
    """
    metric, part, key = found
    points = one[part][key] - other[part][key]
    texts = [item.get("hits", {}).get(metric) for item in (one, other)]
    if all(texts) and [len(word) for word in texts[0].split()] == [len(word) for word in texts[1].split()]:
        words = texts[0].split()
        groups = (
            np.arange(len(words[0])) if len(words) == 1 else np.repeat(np.arange(len(words)), list(map(len, words)))
        )
        ones, others = (np.array([letter == "1" for letter in text.replace(" ", "")], np.float64) for text in texts)
        low, high = interval(ones - others, groups)
        return {"points": points, "low": low, "high": high, "paired": True}
    (theirs, *ends), (own, *own_ends) = ((item[part][key], *item[part][f"{key}_ci95"]) for item in (other, one))
    low, high = difference_interval((theirs, ends[0], ends[1]), (own, own_ends[0], own_ends[1]))
    return {"points": points, "low": low, "high": high, "paired": False}

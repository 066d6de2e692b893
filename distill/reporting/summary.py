"""The report's first lines: what was got, what it costs, and what to do next; each sentence from the run's own figures."""

from typing import Any

from distill.evaluation import verdict as verdicts
from distill.reporting.pareto.choices import kept_budget

NAMES = {"zero_shot_top1": "zero-shot top-1", "t2i_r1": "text-to-image R@1", "i2t_r1": "image-to-text R@1"}


def summary(facts: dict[str, Any]) -> list[str]:
    """Sentences about the student of a run, see `reporting.facts.read_run`."""
    rows = {row["role"]: row for row in facts["table"]}
    student, teacher = rows.get("student"), rows.get("teacher")
    if student is None:
        return []
    found = facts["verdict"]
    sentences = [] if found is None else [judgement(found, facts["longer"]), _told_apart(found)]
    if teacher is not None:
        sentences.append(_lost(found, teacher) if found is not None and found["lost"] else _kept(student, teacher))
    if found is not None:
        sentences += [_brought(found, facts), _seen(found)]
    sentences.append(_words(facts.get("vocabulary")))
    sentences.append(_files(facts["exports"]))
    sentences += kept_budget(facts)
    sentences.append(_phone(facts.get("predicted", [])))
    sentences += _terms(facts["licence"])
    return [sentence for sentence in sentences if sentence]


def _kept(student: dict[str, Any], teacher: dict[str, Any]) -> str:
    """For example "The student keeps 94 % of the teacher's zero-shot top-1 (93.3 of 99.5) ... at 24 % of its size"."""
    kept = [
        f"{100 * student[key] / teacher[key]:.0f} % of its {name} ({student[key]:.1f} of {teacher[key]:.1f})"
        for key, name in NAMES.items()
        if student[key] is not None and teacher[key]
    ]
    if not kept:
        return ""
    size = ""
    if student["size_mb"] and teacher["size_mb"]:
        size = f", at {100 * student['size_mb'] / teacher['size_mb']:.0f} % of its size"
    return f"Of the teacher {teacher['model']} the student keeps {_listed(kept)}{size}."


def _lost(found: dict[str, Any], teacher: dict[str, Any]) -> str:
    """That the teacher itself does not know the data, in place of what of it the student keeps."""
    return (
        f"The teacher {teacher['model']} is itself no better than chance here ({found['teacher']:.1f} % {NAMES[found['metric']]}): "
        "it cannot teach what it does not know. Look whether it reads the captions' language and knows such pictures, or give "
        "another (distill list teachers)."
    )


def judgement(found: dict[str, Any], longer: str) -> str:
    """The verdict in a sentence, with the command that mends it where one may.

    Args:
        found: as `distill.evaluation.verdict.verdict` gives it.
        longer: the command that trains longer.
    """
    name, plain = NAMES[found["metric"]], found["gains"].get("plain")
    figure, chance = f"{found['student']:.1f} % {name}", f"{found['chance']:.2g} %"
    advice, word = f"rain longer: {longer}", found["word"]
    if word == verdicts.CHANCE:
        said = f"no better than chance ({figure}, whose interval reaches the {chance} of chance)."
        if found["lost"]:
            return f"Verdict: {said} Nor is its teacher."
        return f"Verdict: {said} Give more images, or a student that inherits more, or t{advice}"
    if word == verdicts.ALONE or plain is None:
        return (
            f"Verdict: better than chance ({figure} against {chance}); no plain student was trained beside it to tell what the "
            "teacher brought (baseline.enabled)."
        )
    if word == verdicts.WORSE:
        by = f"{_points(plain, -1)} of {name}"
        return (
            f"Verdict: worse than the plain student, which no teacher touched, by {by}. Look at the data, or t{advice}"
        )
    by = f"{_points(plain)} of {name}"
    if word == verdicts.SAME:
        return f"Verdict: not distinguishable from the plain student, which no teacher touched ({by}). T{advice}"
    if word == verdicts.FAR:
        kept = f"but it keeps only {found['share']:.0f} % of its teacher's figure"
        return f"Verdict: better than the plain student, which no teacher touched, by {by}, {kept}. T{advice}"
    if word == verdicts.FEW:
        return (
            f"Verdict: better than the plain student, which no teacher touched, by {by}, but {found['images']} images are too few "
            "to call it usable. Judge it on more: --set eval.data=PLACE."
        )
    return f"Verdict: usable. It is better than the plain student, which no teacher touched, by {by}."


def _points(gain: dict[str, Any], sign: int = 1) -> str:
    """For example "12.3 points [10.1, 14.6]"."""
    low, high = sorted((sign * gain["low"], sign * gain["high"]))
    return f"{sign * gain['points']:.1f} points [{low:.1f}, {high:.1f}]"


def _told_apart(found: dict[str, Any]) -> str:
    """On how many images, the interval, and chance."""
    few = ""
    if found["images"] < verdicts.FEW_IMAGES:
        few = "; so few tell little, more are given by --set eval.data=PLACE"
    return (
        f"Judged on {found['images']:,} images: {found['student']:.1f} % {NAMES[found['metric']]} [{found['low']:.1f}, "
        f"{found['high']:.1f}], 95 % interval; chance is {found['chance']:.2g} %{few}."
    )


def _brought(found: dict[str, Any], facts: dict[str, Any]) -> str:
    """What inheritance and distillation each brought, where the arms between were trained."""
    gains, brought = found["gains"], []
    if "training" in gains:
        start = f"Against its start, training brought {_points(gains['training'])} of {NAMES[found['metric']]}"
        brought.append(f"{start}{': it did harm' if gains['training']['high'] < 0 else ''}.")
    parts = [f"{name} brought {_points(gains[name])}" for name in ("distillation", "inheritance") if name in gains]
    if parts:
        brought.append(
            f"Of {NAMES[found['metric']]}, {' and '.join(parts)}, each against the student that has all but that."
        )
    elif "plain" in gains and facts["inherited"].get("towers"):
        brought.append(
            "What inheritance brought and what distillation was not measured: --set baseline.four_arms=true does."
        )
    return " ".join(brought)


def _seen(found: dict[str, Any]) -> str:
    if not found["seen"]:
        return ""
    return (
        f"{found['seen']:,} of the evaluation's images were trained on too (the same bytes), so its figures flatter the student: "
        "judge it on others by --set eval.data=PLACE."
    )


def _words(cut: dict[str, Any] | None) -> str:
    """What a vocabulary was cut to, and what that does to its corpus."""
    if cut is None:
        return ""
    return (
        f"Its vocabulary is cut from {cut['tokens_before']:,} to {cut['tokens_after']:,} {cut['kind']}: "
        f"{cut['fertility_before']:.3f} to {cut['fertility_after']:.3f} tokens a word, and {cut['captions_unchanged']:.1%} of "
        f"{cut['captions']:,} captions read as before."
    )


def _files(exports: list[dict[str, Any]]) -> str:
    """The smallest good files, and how many there are."""
    folders: dict[str, float] = {}
    for row in exports:
        if row["tower"] != "classifier":
            folder = row["file"].partition("/")[0]
            folders[folder] = folders.get(folder, 0.0) + row["size_mb"]
    if not folders:
        return "No exported files are good, or none were asked for: distill export makes them."
    smallest = min(folders, key=lambda name: folders[name])
    both = f"{folders[smallest]:.1f} MB for both towers"
    return f"{len(folders)} export{'s' * (len(folders) > 1)} passed parity; the smallest is {smallest}, {both}."


def _phone(predicted: list[dict[str, Any]]) -> str:
    """What it costs on the first phone of the table, where both towers have a figure."""
    towers = {item["tower"]: item for item in predicted if item["device"] == predicted[0]["device"]}
    if any(towers.get(tower, {}).get("predicted_ms") is None for tower in ("image", "text")):
        return ""
    shown = [
        f"{towers[tower]['predicted_ms']:.3g} ms for {what} ({towers[tower]['low_ms']:.2g} to {towers[tower]['high_ms']:.2g})"
        for tower, what in (("image", "a picture"), ("text", "a sentence"))
    ]
    source = towers["image"]["source"]
    return f"Not measured but {source} for the {predicted[0]['device']}: {_listed(shown)}; the other phones are below."


def _terms(licence: str) -> list[str]:
    if "no commercial use" in licence:
        return [f"It must not be used commercially: {licence}."]
    if "unknown" in licence or "-NC" in licence:
        return [f"Its terms are not clear; look at them before you ship it: {licence}."]
    return []


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

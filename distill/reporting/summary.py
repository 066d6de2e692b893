"""The report's first lines: what was got, what it costs, and what to do next; each sentence from the run's own figures."""

from typing import Any

from distill.reporting.pareto.choices import kept_budget

NAMES = {"zero_shot_top1": "zero-shot top-1", "t2i_r1": "text-to-image R@1", "i2t_r1": "image-to-text R@1"}


def summary(facts: dict[str, Any]) -> list[str]:
    """Sentences about the student of a run, see `reporting.facts.read_run`."""
    rows = {row["role"]: row for row in facts["table"]}
    student, teacher, plain = rows.get("student"), rows.get("teacher"), rows.get("plain student")
    if student is None:
        return []
    sentences = []
    if teacher is not None:
        sentences.append(_kept(student, teacher))
    if plain is not None:
        sentences.append(_gained(facts))
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


def _gained(facts: dict[str, Any]) -> str:
    """Whether the student is better than the plain one by more than both intervals, where intervals are known."""
    student, plain = _interval(facts, "student"), _interval(facts, "plain")
    if student is None or plain is None:
        return ""
    name, (low, value, high) = student
    _, (plain_low, plain_value, plain_high) = plain
    shown = f"{value:.1f} [{low:.1f}, {high:.1f}] against {plain_value:.1f} [{plain_low:.1f}, {plain_high:.1f}] {name}"
    if low > plain_high:
        return f"It is better than the same student trained without a teacher: {shown}."
    if high < plain_low:
        return (
            f"It is worse than the same student trained without a teacher: {shown}. Train longer, or look at the data."
        )
    return (
        f"It cannot be told from the same student trained without a teacher: {shown}. Train longer, or on more images."
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


def _interval(facts: dict[str, Any], role: str) -> tuple[str, tuple[float, float, float]] | None:
    """Name of the figure, and (low, value, high) of it for a role: zero-shot top-1, else text-to-image R@1."""
    found = next((item for item in facts["evals"] if item["role"] == role), None)
    if found is None:
        return None
    for part, key, name in (("zero_shot", "top1", NAMES["zero_shot_top1"]), ("retrieval", "t2i_r1", NAMES["t2i_r1"])):
        figures = found[part]
        if figures:
            low, high = figures[f"{key}_ci95"]
            return name, (low, figures[key], high)
    return None


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
    return f"{len(folders)} exports passed parity; the smallest is {smallest}, {both}."


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

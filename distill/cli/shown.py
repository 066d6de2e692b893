"""What a person reads of each verb's result, at 80 places as at 120; all the rest is in --json. Left out: the closing table of a
run (distill.reporting.table).
"""

import shlex
from pathlib import Path
from typing import Any

from distill.reporting.terminal import print_lints, print_paragraph, print_rows, print_table


def show_reinforced(done: Any) -> None:
    """What was labelled and how it was read, whether it was checked, its terms, what filters left; and the next command."""
    run, facts = Path(done.out).parent, done.facts
    if not done.finished:
        print_paragraph(f"Not finished: {facts['missing_shards']} shards of {done.out} are other processes' or tasks'.")
        print(f"Next: {shlex.join(['distill', 'reinforce', str(run), '--resume'])}")
        return
    captions = ", ".join(f"{count} {source}" for source, count in facts["captions"].items())
    rejected = (
        f"; {facts['rejected']} images rejected: {_counts(facts['rejected_reasons'])}" if facts["rejected"] else ""
    )
    print_paragraph(
        f"{facts['samples']} images labelled, captions: {captions}; {facts['size_bytes'] / 1e6:.3g} MB in {done.out}{rejected}"
    )
    print_paragraph(_checked(facts["verify"]))
    print_paragraph(f"Terms: {facts['licence']}")
    print_paragraph(f"Selection: {done.selection}" if done.selection else "Selection: all samples (--filter chooses)")
    print(f"Next: {shlex.join(['distill', 'train', '--data', str(run), '--out', f'{run}-student'])}")


def _checked(verify: dict[str, Any] | None) -> str:
    if verify is None:
        return "Not checked against the live teachers (--verify 16 does)"
    worst = min((min(of["image_min"], of["text_min"]) for of in verify["teachers"].values()), default=1.0)
    return f"Checked: {verify['views']} stored views again through the live teachers, lowest cosine {worst:.5f}"


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in reasons.items())


def show_trained(done: Any) -> None:
    """What was trained, how large it is, and the next commands."""
    counts = {name.replace("_", " "): f"{count / 1e6:.3g} M" for name, count in done.parameters.items()}
    print_paragraph(f"Trained {'heads' if done.heads else 'model'}: {done.out}")
    print_paragraph(f"Parameters: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    model = str(Path(done.out).parent)
    print(f"Next: {shlex.join(['distill', 'eval', model])}")
    if not done.heads:
        print(f"      {shlex.join(['distill', 'export', model])}")


def show_figures(result: Any) -> None:
    """Accuracies with their 95 % intervals, on how much, and what chance gives; per class where there are a few."""
    from distill.evaluation.metrics import chance_r1
    from distill.reporting.table import PER_CLASS, per_class_rows

    retrieval, zero_shot = result.retrieval, result.zero_shot
    print_paragraph(f"{result.model}, in percent (95 % interval)")
    if retrieval:
        images, captions = retrieval["images"], retrieval["captions"]
        names = {"t2i": "text to image", "i2t": "image to text"}
        rows = [
            [f"{names[way]}", *(_with_interval(retrieval, f"{way}_r{k}") for k in (1, 5, 10))] for way in ("t2i", "i2t")
        ]
        title = f"retrieval among {images} images and {captions} captions; chance R@1 is {chance_r1(retrieval):.2g}"
        print_table(("retrieval", "R@1", "R@5", "R@10"), rows, title=title, figures=True)
    if zero_shot:
        chance = 100 / zero_shot["classes"]
        top1, top5 = (_with_interval(zero_shot, key) for key in ("top1", "top5"))
        print_paragraph(
            f"zero-shot, {zero_shot['task']}: top-1 {top1}, top-5 {top5}; {zero_shot['images']} images "
            f"of {zero_shot['classes']} classes, chance is {chance:.2g}"
        )
        if each := zero_shot.get("per_class", {}):
            print_table(PER_CLASS, per_class_rows({"top-1": each}), figures=True)


def _with_interval(figures: dict[str, Any], key: str) -> str:
    low, high = figures[f"{key}_ci95"]
    return f"{figures[key]:.1f} ({low:.1f} to {high:.1f})"


def show_exported(done: Any) -> None:
    """A line per good file, what is wrong with the others, and where they lie."""
    print_rows(done.table)
    for folder, wrong in done.left_out.items():
        print_paragraph(f"{folder}: {wrong}", "  ")
    print_paragraph(f"In {done.out}; each folder's artifact.json has inputs, parity, terms and hashes")


def show_profile(done: Any) -> None:
    """A row per device and file with both towers' times, predictions apart; what could not be timed once per device."""
    from distill.reporting import phones

    measured = [row for row in done.profiles if row["p50_ms"] is not None]
    if measured:
        found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
        for row in measured:
            key = (row["device"], row["runtime"].partition(" (")[0], row["precision"], row["source"])
            found.setdefault(key, {})[row["tower"]] = row
        towers = list(dict.fromkeys(row["tower"] for row in measured))
        rows = [[*key, *(_times(each.get(tower)) for tower in towers)] for key, each in found.items()]
        columns = ("device", "runtime", "file", "source", *(f"{tower}, p50 (p90) ms" for tower in towers))
        batch = ", ".join(str(size) for size in sorted({row["batch"] for row in measured}))
        print_table(columns, rows, title=f"milliseconds a call, batch {batch}")
    predicted = [row for row in done.profiles if row["predicted_ms"] is not None or row["source"] == "uncalibrated"]
    if predicted:
        print_table(phones.COLUMNS, phones.rows(predicted), title=phones.TITLE)
    for line in dict.fromkeys(_said(row) for row in done.profiles):
        if line:
            print_paragraph(line, "  ")


def _times(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['p50_ms']:.3g} ({row['p90_ms']:.3g})"


def _said(row: dict[str, Any]) -> str:
    """What the reader must know of a row, without its tower."""
    absent = row["p50_ms"] is None and row["predicted_ms"] is None
    words = f"{row['source']}: {row['note']}" if absent and row["source"] not in row["note"] else row["note"]
    return f"{row['device']}: {words}" if words else ""


def show_calibrated(done: Any) -> None:
    """The anchors, and how far one that was left out lies off."""
    print_rows(done.anchors)
    print_paragraph(
        f"Kept for --device {done.device} ({done.target}); anchors that were left out lie {done.spread_percent} % off."
    )


def show_choice(choice: Any) -> None:
    """The candidates of a budget, the chosen one first, and why the others lost."""
    from distill.reporting.pareto import choices

    record = choice.to_json()
    print_table(choices.COLUMNS, choices.rows(record), title=choices.title(record))
    for line in choices.lines(record):
        print_paragraph(line)


def show_comparison(result: Any) -> None:
    """A row per run and model with intervals, how far the students lie apart, and what makes runs hard to compare."""
    from distill.reporting.pareto.page import COLUMNS, rows

    print_table(COLUMNS, rows(result.table), title="in percent (95 % interval)", figures=True)
    for row in result.differences:
        print_paragraph(row["says"], "  ")
    for warning in result.warnings:
        print_paragraph(warning, "  ")
    if result.out is not None:
        print_paragraph(f"Page and plots: {result.out}/compare.html")


def show_overview(found: Any) -> None:
    """What can be listed, what the default job is made of, and how data is named."""
    rows = {kind: [row for row in found.rows if row["kind"] == kind] for kind in ("list", "default", "source")}
    print_rows([{"say": row["see"], "for": row["what"]} for row in rows["list"]])
    print()
    print_paragraph("The default recipe, distill run without a word (distill list keys has all of it):")
    show_keys(rows["default"])
    print()
    print_rows([{"--data": row["name"], "what": row["what"]} for row in rows["source"]])


def show_keys(rows: list[dict[str, Any]]) -> None:
    """Keys of a recipe as they are written after --set, with their meaning."""
    print_rows([{"key = default": f"{row['name']} = {row['default']}", "what": row["what"]} for row in rows])


def show_lints(result: Any) -> None:
    """A paragraph per finding, and how many there are."""
    print_lints(result.to_json())

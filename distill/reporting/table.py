"""What the closing table and the reports' tables hold: teacher, student, plain student; captions by source."""

import textwrap
from typing import Any

from distill.evaluation.metrics import chance_r1
from distill.reporting import phones
from distill.reporting.summary import summary
from distill.reporting.terminal import print_table, room_for_lines

COLUMNS = ("model", "zero-shot top-1", "text-to-image R@1", "image-to-text R@1", "size MB (fp32)",
           "host p50 ms (image / text)", "parity (min cosine)")  # fmt: skip


def percent(value: float | None) -> str:
    """55.432 -> "55.4"; None -> a dash."""
    return "-" if value is None else f"{value:.1f}"


def rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of strings per model, in the order of `COLUMNS`."""
    result = []
    for row in facts["table"]:
        speed = "-" if row["image_p50_ms"] is None else f"{row['image_p50_ms']:.2f} / {row['text_p50_ms']:.2f}"
        parity = "-" if row["parity"] is None else f"{row['parity']:.6f}"
        size = "-" if row["size_mb"] is None else f"{row['size_mb']:.1f}"
        label = f"{row['role']}: {row['model']}"
        accuracies = (percent(row[key]) for key in ("zero_shot_top1", "t2i_r1", "i2t_r1"))
        result.append((label, *accuracies, size, speed, parity))
    return result


RETRIEVAL = ("model", "T2I R@1", "T2I R@5", "T2I R@10", "I2T R@1", "I2T R@5", "I2T R@10")
ZERO_SHOT = ("model", "top-1", "top-5")
EXPORTS = (
    "file",
    "MB",
    "parity",
    "top-1 agreement",
    "R@1 against eager, points",
    "host p50 / p90 / p99 ms",
    "checked by",
)


def retrieval_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per judged model, in the order of `RETRIEVAL`; with 95 % bootstrap intervals at R@1."""
    keys = [f"{way}_r{k}" for way in ("t2i", "i2t") for k in (1, 5, 10)]
    return [
        (item["model"], *(_with_interval(item["retrieval"], key, key.endswith("r1")) for key in keys))
        for item in facts["evals"]
        if item["retrieval"]
    ]


def zero_shot_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per judged model, in the order of `ZERO_SHOT`."""
    return [
        (item["model"], _with_interval(item["zero_shot"], "top1", True), percent(item["zero_shot"]["top5"]))
        for item in facts["evals"]
        if item["zero_shot"]
    ]


PER_CLASS = ("class", "images", "top-1")


def per_class_rows(models: dict[str, dict[str, dict[str, float]]]) -> list[tuple[str, ...]]:
    """One row per class: its name, how many images it was judged on, and the top-1 of each model; the hardest of the last first.

    Args:
        models: name -> class -> "images" and "top1", see `distill.evaluation.metrics.per_class`.
    """
    last = [*models.values()][-1]
    return [
        (name, f"{last[name]['images']}", *(percent(each[name]["top1"]) for each in models.values()))
        for name in sorted(last, key=lambda name: (last[name]["top1"], name))
    ]


def per_class(facts: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows) of `per_class_rows` over teachers and student, the student last; no rows where there are no classes."""
    found = {
        item["model"]: item["zero_shot"]["per_class"]
        for role in ("teacher", "student")
        for item in facts["evals"]
        if item["role"] == role and item["zero_shot"] and "per_class" in item["zero_shot"]
    }
    return (("class", "images", *found), per_class_rows(found)) if found else ((), [])


def _with_interval(figures: dict[str, Any], key: str, shown: bool) -> str:
    low, high = figures[f"{key}_ci95"]
    return f"{percent(figures[key])} [{percent(low)}, {percent(high)}]" if shown else percent(figures[key])


def retrieval_note(facts: dict[str, Any]) -> str:
    """On what retrieval was judged, and what chance gives."""
    found = next((item["retrieval"] for item in facts["evals"] if item["retrieval"]), None)
    if found is None:
        return ""
    images, captions = found["images"], found["captions"]
    return f"{images} images, {captions} captions; 95 % bootstrap interval in brackets; chance R@1 is {chance_r1(found):.2f}."


def zero_shot_note(facts: dict[str, Any]) -> str:
    """On what zero-shot was judged, and what chance gives."""
    found = next((item["zero_shot"] for item in facts["evals"] if item["zero_shot"]), None)
    if found is None:
        return ""
    return f"{found['task']}: {found['images']} images, {found['classes']} classes; chance is {100 / found['classes']:.1f}."


def export_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per good exported file, in the order of `EXPORTS`."""
    return [
        (
            f"{row['file']} ({row['tower']}, {row['precision']})",
            f"{row['size_mb']:.2f}",
            _parity(row),
            "-" if row["top1_agreement"] is None else f"{row['top1_agreement']:.3f}",
            _drop(row),
            "not measured"
            if row["p50_ms"] is None
            else f"{' / '.join(f'{row[key]:.2f}' for key in ('p50_ms', 'p90_ms', 'p99_ms'))} ({_threads(row['threads'])})",
            f"{row['checked_by']} ({row['samples']} samples)",
        )
        for row in facts["exports"]
    ]


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


def _parity(row: dict[str, Any]) -> str:
    if row["probability_difference"] is not None:
        return f"probabilities at most {row['probability_difference']:.4f} apart"
    return (
        "not checked"
        if row["cosine_min"] is None
        else f"cosine {row['cosine_min']:.6f} (mean {row['cosine_mean']:.6f})"
    )


def _drop(row: dict[str, Any]) -> str:
    if row["retrieval_drop"] is None:
        return "-"
    low, high = -row["retrieval_drop_high"], -row["retrieval_drop_low"]
    return f"{-row['retrieval_drop']:+.1f} ({low:+.1f} to {high:+.1f}; {row['retrieval_pairs']} pairs)"


def _typed(command: str, room: int) -> str:
    """A command line over several lines, as a shell takes it."""
    lines = textwrap.wrap(command, room - 8, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(" \\\n    ".join(lines), "  ")


TERMINAL = ("model", "top-1", "T2I R@1", "I2T R@1", "MB fp32", "ms image/text", "parity")


def terminal_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """As `rows`, in the order of `TERMINAL`: by role, and short enough for a terminal of 80 columns."""
    roles = [row["role"] for row in facts["table"]]
    result = []
    for place, (row, (_, *cells)) in enumerate(zip(facts["table"], rows(facts), strict=True)):
        role = row["role"]
        if roles.count(role) > 1:
            role = f"{role} {roles[: place + 1].count(role)}"
        result.append((role, *cells[:-1], cells[-1][:7]))
    return result


def show(facts: dict[str, Any]) -> None:
    """Print the table, what it is worth, a line per phone, and where the reports lie; nothing is wider than the terminal."""
    room = min(100, room_for_lines())

    def paragraph(text: str) -> None:
        print(textwrap.fill(text, room, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))

    if facts["mark"]:
        paragraph(facts["mark"])
    paragraph(f"{facts['out']}: accuracies in percent, batch 1, {facts['host']}")
    shown = terminal_rows(facts)
    print_table(TERMINAL, shown, figures=True)
    paragraph(
        "; ".join(f"{label}: {row['model']}" for (label, *_), row in zip(shown, facts["table"], strict=True)) + "."
    )
    for note in filter(None, (zero_shot_note(facts), retrieval_note(facts))):
        paragraph(note.replace("95 % bootstrap interval in brackets; ", ""))
    for sentence in summary(facts):
        said, command, rest = sentence.partition(facts["longer"])
        paragraph(said.rstrip() + rest)
        if command:
            print(_typed(command, room))
    if predicted := phones.rows(facts["predicted"]):
        print_table(phones.COLUMNS, predicted, title=phones.TITLE)
    for phone in facts["phones"]:
        paragraph(f"{phone['phone']}: {phone['result']}")
    paragraph(f"Report: {facts['out']}/report.md and report.html")


def caption_rows(captions: dict[str, Any] | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, one row per source) of `reinforced_data.store.caption_report`; no rows where nothing was measured."""
    if not captions:
        return (), []
    teachers = sorted({name for facts in captions["sources"].values() for name in facts["teachers"]})
    columns: tuple[str, ...] = (
        "source",
        "captions",
        "words mean (p5-p95)",
        "repeats in sample / set",
        "distinct-1 / -2",
    )
    columns += tuple(f"{name}: cosine mean / p10, first, self-similarity" for name in teachers)
    rows = []
    for source, facts in captions["sources"].items():
        row = [
            source,
            f"{facts['captions']}",
            f"{facts['words_mean']:.1f} ({facts['words_p5']}-{facts['words_p95']})",
            f"{facts['repeats_in_sample']:.1%} / {facts['repeats_in_set']:.1%}",
            f"{facts['distinct_1']:.3f} / {facts['distinct_2']:.3f}",
        ]
        for name in teachers:
            seen = facts["teachers"][name]
            alike = "-" if seen["self_similarity"] is None else f"{seen['self_similarity']:.3f}"
            first = "-" if seen["first_share"] is None else f"{seen['first_share']:.1%}"
            row.append(f"{seen['cosine_mean']:.3f} / {seen['cosine_p10']:.3f}, {first}, {alike}")
        rows.append(tuple(row))
    return columns, rows

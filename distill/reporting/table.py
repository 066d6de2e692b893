"""What the closing table and the reports' tables hold: teacher, student, plain student; captions by source."""

from typing import Any

from distill.reporting.terminal import print_table

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


def show(facts: dict[str, Any]) -> None:
    """Print the table, a line per phone, and where the reports lie."""
    title = facts["mark"] or f"{facts['out']}: all in percent, batch 1, {facts['host']}"
    print_table(COLUMNS, rows(facts), title=title, figures=True)
    for phone in facts["phones"]:
        print(f"{phone['phone']}: {phone['result']}")
    print(f"Report: {facts['out']}/report.md and report.html")


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

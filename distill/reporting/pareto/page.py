"""The page of a comparison: one HTML file without network, its plots as files, and everything as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.reporting import plots
from distill.reporting.pareto import draw
from distill.reporting.pareto.fronts import METRICS, Axis, Front, costs, primary
from distill.reporting.pareto.references import judged_on_imagenet, references
from distill.reporting.write import NOTE, environment

COLUMNS = ("run", "model", "zero-shot top-1", "T2I R@1", "I2T R@1", "MB (fp32)", "host ms", "front")
PAPERS_ON = "iphone-12-pro-max"  # the phone that papers on small CLIPs measure
PAPERS = (
    f"ImageNet zero-shot top-1 of the papers against the latency of both towers on the {PAPERS_ON}, fp16. A run stands among them "
    "only where it was judged on ImageNet; no other accuracy compares with these."
)


def rows(table: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row of strings per model, in the order of `COLUMNS`."""
    return [
        (
            Path(row["run"]).name,
            f"{row['role']}: {row['model']}",
            *(_accuracy(row, key) for key in METRICS),
            "-" if row["size_mb"] is None else f"{row['size_mb']:.3g}",
            "-" if row["image_p50_ms"] is None else f"{row['image_p50_ms'] + row['text_p50_ms']:.3g}",
            row["front"] or "-",
        )
        for row in table
    ]


def _accuracy(row: dict[str, Any], key: str) -> str:
    """With its 95 % interval where one is known."""
    if row[key] is None:
        return "-"
    ends = row["intervals"].get(key)
    return f"{row[key]:.1f}" + (f" ({ends[0]:.1f} to {ends[1]:.1f})" if ends else "")


def write_comparison(
    folder: Path, runs: Sequence[dict[str, Any]], found: Sequence[Front], record: dict[str, Any]
) -> None:
    """Write compare.html, compare.json, and pareto-<axis>.svg and .png for every axis.

    Args:
        folder: is made.
        runs: facts, as of `reporting.facts.read_run`.
        found: fronts of these runs.
        record: what `distill compare --json` prints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metric, shown, taken = primary(found), [], set()
    for front in found:
        if front.metric != metric:
            continue
        name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in front.axis.name).strip("-")
        while name in taken:  # the same axis for other data
            name += "-2"
        taken.add(name)
        lines = references(front.axis.name)
        draw.write(draw.front_figure(front, lines), folder / f"pareto-{name}")
        shown.append({"title": draw.title(front), "svg": plots.svg_of(draw.front_figure(front, lines))})
    papers = references(PAPERS_ON)
    own = _on_imagenet(runs)
    draw.write(draw.published_figure(papers, PAPERS_ON, own), folder / "published")
    page = {
        "title": " and ".join(Path(facts["out"]).name for facts in runs),
        "warnings": record["warnings"],
        "differences": [row["says"] for row in record["differences"]],
        "columns": COLUMNS,
        "rows": rows(record["table"]),
        "note": NOTE,
        "plots": shown,
        "published": {"svg": plots.svg_of(draw.published_figure(papers, PAPERS_ON, own))},
        "published_note": PAPERS,
        "published_columns": ("model", "ImageNet, %", "MB (fp32)", f"ms, {PAPERS_ON}", "source of ms", "paper"),
        "published_rows": _papers(papers),
    }
    atomic.write_text(folder / "compare.html", environment().get_template("compare.html").render(page))
    atomic.write_json(folder / "compare.json", record)


def _papers(papers: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    sizes = {one["name"]: one["cost"] for one in references("size")}
    return [
        (
            one["name"],
            f"{one['imagenet']:.1f}",
            f"{sizes[one['name']]:.4g}",
            f"{one['cost']:.3g}",
            one["source"],
            one["paper"],
        )
        for one in papers
    ]


def _on_imagenet(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Models of runs that were judged on ImageNet, with their latency on the papers' phone."""
    axis = Axis(PAPERS_ON, "ms", "predicted")
    found = []
    for facts in filter(judged_on_imagenet, runs):
        for row in facts["table"]:
            if axis in (own := costs(facts, row)):
                name = f"{Path(facts['out']).name}: {row['role']}"
                found.append({"name": name, "cost": own[axis].value, "accuracy": row["zero_shot_top1"]})
    return found

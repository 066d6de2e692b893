"""What a person reads of `distill plan`, at 80 places as at 120; all the rest is in --json."""

from typing import Any

from distill.reporting.terminal import print_findings, print_paragraph, print_rows, print_table


def show_plan(found: Any) -> None:
    """What would be trained and why so long, hours, gigabytes, what is fetched, terms, and what is missing."""
    recipe, data, training = found.recipe, found.data, found.training
    labelled = "labelled already" if data["labelled"] else f"{data['captions']:.3g} captions each"
    there = " It exists: distill run goes on with it by --resume, or name another --out." if found.exists else ""
    print_paragraph(
        f"Would write {found.out}: {recipe['student']['name']} from {', '.join(recipe['teachers'])}.{there}"
    )
    print_paragraph(
        f"{data['images']:,} images ({labelled}) are trained on, {data['judged']:,} judge: {training['steps']:,} steps of "
        f"{training['batch_size']:,}, {training['seen']:,} samples, {training['epochs']:.3g} epochs."
    )
    if found.filled:
        print_rows(
            [{"chosen for you": f"{key} = {_value(recipe, key)}", "because": why} for key, why in found.filled.items()]
        )
    print()
    _show_hours(found.hours)
    print()
    print_table(("on disk", "size", "of"), [[row["what"], _size(row["bytes"]), row["basis"]] for row in found.storage])
    disk = found.disk
    short = "" if disk["free_bytes"] > disk["needed_bytes"] else " That is too little."
    print_paragraph(
        f"{_size(disk['needed_bytes'])} are needed and {_size(disk['free_bytes'])} free in {disk['place']}.{short}"
    )
    print()
    print_rows([{**row, "forbids": row["forbids"] or "nothing known"} for row in found.terms])
    print()
    fetch = "it is downloaded, or put it where distill looks (docs/teachers.md)"
    weights = [
        (row["here"], row["what"], row["from"] if row["here"] else f"not here: {row['from']}", fetch)
        for row in found.downloads
    ]
    targets = [
        (
            row["ready"],
            f"target {row['target']}",
            f"its packages are {'here' if row['ready'] else 'missing'}",
            row["do"],
        )
        for row in found.targets
    ]
    print_findings([*weights, *targets])


def _show_hours(rows: list[dict[str, Any]]) -> None:
    """A line per stage and one for all; where nothing was measured one line says so."""
    if all(row["high"] is None for row in rows):
        print_paragraph(f"Hours: {rows[0]['basis']}. Stages: {', '.join(row['stage'] for row in rows)}.")
        return
    known = [row for row in rows if row["high"] is not None]
    low, high = (sum(row[end] for row in known) for end in ("low", "high"))
    print_table(
        ("stage", "time", "basis"),
        [
            [row["stage"], "-" if row["high"] is None else _between(row["low"], row["high"]), row["basis"]]
            for row in rows
        ],
    )
    print_paragraph(f"Together {_between(low, high)}.")


def _between(low: float, high: float) -> str:
    """An interval of hours, each end in the unit that it has."""
    return f"{_time(low)} to {_time(high)}"


def _time(hours: float) -> str:
    size, name = (hours, "h") if hours >= 1 else (60 * hours, "min") if hours >= 1 / 60 else (3600 * hours, "s")
    return f"{size:.2g} {name}" if size < 10 else f"{size:.0f} {name}"


def _size(size: int | None) -> str:
    if size is None:
        return "not known"
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _value(recipe: dict[str, Any], key: str) -> Any:
    table, _, name = key.rpartition(".")
    return (recipe[table] if table else recipe)[name]

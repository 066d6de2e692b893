"""A choice by a budget for tables: the few best of those that keep it, the nearest of those that do not, and why each lost."""

from typing import Any

COLUMNS = ("student", "px", "text", "stored", "ms (up to)", "MB", "prior", "outcome")
SHOWN = 4  # of either kind, beside those that are trained


def rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of strings per candidate, in the order of `COLUMNS`.

    Args:
        record: as choice.json holds it.
    """
    met = [entry for entry in record["candidates"] if not entry["over"]]
    missed = [entry for entry in record["candidates"] if entry["over"]]
    judged = {one["name"]: one for one in record.get("judged", [])}
    return [
        (
            entry["student"],
            str(entry["pixels"]),
            "-" if entry["layers"] is None else str(entry["layers"]),
            entry["precision"],
            slowest(entry["latency"]),
            f"{entry['size_mb']:.3g}",
            f"{entry['prior']:.1f}",
            _outcome(record, entry, judged.get(entry["name"])),
        )
        for entry in (*met[: max(SHOWN, len(record["chosen"]))], *missed[:SHOWN])
    ]


def slowest(latency: dict[str, dict[str, Any]]) -> str:
    """The latency on the device that takes longest, with the upper end of its interval; a dash where none is asked for."""
    if not latency:
        return "-"
    figure = max(latency.values(), key=lambda one: float(one["high"]))
    return f"{figure['ms']:.3g} ({figure['high']:.3g})"


def _outcome(record: dict[str, Any], entry: dict[str, Any], judged: dict[str, Any] | None) -> str:
    """Why it was chosen or not, in a few words."""
    if entry["over"]:
        return f"over in {', '.join(entry['over'])}"
    if judged is not None:
        kept = "kept" if record.get("kept") == entry["name"] else "not kept"
        return f"{kept}: {judged['value']:.1f}"
    if entry["name"] in [one["name"] for one in record["chosen"]]:
        return "chosen" if len(record["chosen"]) == 1 else "is trained"
    return "lower prior"


def title(record: dict[str, Any]) -> str:
    """One line: how many were looked at, and the budget."""
    shapes = record["met"] + record["missed"]
    return f"{record['looked_at']} candidates, {record['met']} of {shapes} shapes within {record['said']}"


def lines(record: dict[str, Any]) -> list[str]:
    """What was chosen and by which rule, a sentence each."""
    best = record["chosen"][0]
    if record.get("kept"):
        measure = record["judged"][0]["measure"]
        told = [f"Kept: {record['kept']}, the best of {len(record['chosen'])} that were trained ({measure})."]
    elif len(record["chosen"]) > 1:
        told = [f"To be trained: {'; '.join(entry['name'] for entry in record['chosen'])}."]
    else:
        told = [f"Chosen: {best['name']}."]
    told.append(f"Rule: {record['rule']}.")
    if sources := dict.fromkeys(figure["source"] for figure in best["latency"].values()):
        bound = "the upper end of the 90 % interval" if record["bound"] == "high" else "the prediction itself"
        told.append(f"Latencies of the first: {'; '.join(sources)}; {bound} must keep the budget.")
    if record["failed"]:
        name, why = next(iter(record["failed"].items()))
        told.append(f"{len(record['failed'])} could not be predicted, the first {name}: {why}")
    return told

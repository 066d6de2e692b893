"""A choice by a budget for tables: the few best of those that keep it, the nearest of those that do not, and why each lost."""

from typing import Any

COLUMNS = ("student", "px", "text", "stored", "ms (up to)", "MB", "prior", "outcome")
TOWERS = ("image", "text")
SHOWN = 4  # of either kind, beside those that are trained


def rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of strings per candidate, in the order of `COLUMNS`.

    Args:
        record: as choice.json holds it.
    """
    met = [entry for entry in record["candidates"] if not (entry["over"] or entry["refused"])]
    missed = [entry for entry in record["candidates"] if entry["over"] or entry["refused"]]
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
    if entry["refused"]:
        return f"lint {', '.join(entry['refused'])}"
    if entry["over"]:
        return f"over in {', '.join(entry['over'])}"
    if judged is not None:
        kept = "kept" if record.get("kept") == entry["name"] else "not kept"
        return f"{kept}: {judged['value']:.1f}"
    if entry["name"] in [one["name"] for one in record["chosen"]]:
        return "chosen" if len(record["chosen"]) == 1 else "is trained"
    return "lower prior"


def kept_budget(facts: dict[str, Any]) -> list[str]:
    """What the finished files take of the budget: their size, and their latency where it was measured; a sentence each.

    Args:
        facts: of a run, as of `reporting.facts.read_run`; one without a budget gives none.
    """
    record = facts.get("choice")
    if record is None:
        return []
    entry = next((one for one in record["chosen"] if one["name"] == record.get("kept")), record["chosen"][0])
    told = []
    for target in record["targets"]:
        folder = f"{target}-{entry['precision']}"
        files = [row for row in facts["exports"] if row["file"].startswith(f"{folder}/") and row["tower"] in TOWERS]
        limit = record["budget"]["max_size_mb"]
        if limit and files:
            told.append(_against(f"The files of {folder} take", sum(row["size_mb"] for row in files), limit, "MB"))
    limit, towers = record["budget"]["max_latency_ms"], TOWERS if record["towers"] == "both" else (record["towers"],)
    measured: dict[tuple[str, str], dict[str, float]] = {}
    for row in facts["profiles"]:
        wanted = row["device"] in record["devices"] and row.get("precision") == entry["precision"]
        if limit and wanted and str(row["source"]).startswith("measured") and "eager" not in row["runtime"]:
            measured.setdefault((row["device"], row["runtime"]), {})[row["tower"]] = row["p50_ms"]
    for (device, runtime), each in measured.items():
        if set(towers) <= set(each):
            told.append(_against(f"On {device}, {runtime} measured", sum(each[tower] for tower in towers), limit, "ms"))
    return told


def _against(what: str, value: float, limit: float, unit: str) -> str:
    verdict = f"within the budget of {limit:g}" if value <= limit else f"over the budget of {limit:g}"
    return f"{what} {value:.3g} {unit}, {verdict}."


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

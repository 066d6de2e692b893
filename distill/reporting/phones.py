"""Latencies on phones that were not at hand, for tables: each with its interval and its source, apart from measured ones."""

from typing import Any

COLUMNS = ("phone", "precision", "source", "image, ms", "text, ms")
TITLE = "predicted for phones, ms at batch 1 (90 % interval); not measured here"


def rows(predicted: list[dict[str, Any]]) -> list[list[str]]:
    """A row per phone and precision: both towers, each with its interval; the source of the less certain where they differ."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for item in predicted:
        found.setdefault((item["device"], item["precision"]), {})[item["tower"]] = item
    return [
        [phone, precision, _sources(towers), _figure(towers.get("image")), _figure(towers.get("text"))]
        for (phone, precision), towers in found.items()
    ]


def notes(predicted: list[dict[str, Any]]) -> list[str]:
    """What the figures rest on, once per phone and ground."""
    lines = {f"{item['device']}: {item['note']}": None for item in predicted if item["note"]}
    return list(lines)


def _sources(towers: dict[str, dict[str, Any]]) -> str:
    said = {name: str(item["source"]) for name, item in towers.items()}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return ", ".join(f"{name} {source}" for name, source in said.items())


def _figure(item: dict[str, Any] | None) -> str:
    if item is None or item["predicted_ms"] is None:
        return "-"
    least = ">= " if "at least" in item["note"] else ""
    return f"{least}{item['predicted_ms']:.3g} ({item['low_ms']:.3g} to {item['high_ms']:.3g})"

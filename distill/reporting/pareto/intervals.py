"""How far two runs' students lie apart, with an interval: a difference that the number of images cannot show is called so.

The rule of an interval is that of a run's verdict (`distill.evaluation.verdict.gain`): query by query where both runs were judged
on the same samples, else made of both figures' own ones, which is wider, and said.
"""

from pathlib import Path
from typing import Any

from distill.evaluation.verdict import gain
from distill.reporting.pareto.fronts import METRICS

_PLACES = {
    "zero_shot_top1": ("zero_shot", "top1"),
    "t2i_r1": ("retrieval", "t2i_r1"),
    "i2t_r1": ("retrieval", "i2t_r1"),
}


def intervals(facts: dict[str, Any], row: dict[str, Any]) -> dict[str, list[float]]:
    """Figure -> ends of its 95 % interval, of a row of facts["table"]; without those that an older version did not keep."""
    judged: dict[str, Any] = next((item for item in facts["evals"] if item["model"] == row["model"]), {})
    found = {key: (judged.get(part) or {}).get(f"{name}_ci95") for key, (part, name) in _PLACES.items()}
    return {key: list(ends) for key, ends in found.items() if ends}


def differences(runs: list[dict[str, Any]], judged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An entry per figure and further run, in percentage points: its student less the first run's.

    Args:
        runs: facts of each, see `reporting.facts.read_run`.
        judged: of each run the record of its student as eval/student.json holds it, which says what was found of which query.
    """
    found = []
    for facts, own in zip(runs[1:], judged[1:], strict=True):
        for key, name in METRICS.items():
            part, figure = _PLACES[key]
            if not all(f"{figure}_ci95" in (record.get(part) or {}) for record in (judged[0], own)):
                continue
            unpaired = _why_unpaired(key, (runs[0], judged[0]), (facts, own))
            one, other = ({**record, "hits": {}} if unpaired else record for record in (own, judged[0]))
            apart = gain(one, other, (key, part, figure))
            low, high = apart["low"], apart["high"]
            how = "paired" if apart["paired"] else f"unpaired: {unpaired}"
            told = "" if low > 0 or high < 0 else "; not distinguishable"
            says = (
                f"{Path(facts['out']).name} against {Path(runs[0]['out']).name}: {name} {apart['points']:+.1f} points "
                f"({low:+.1f} to {high:+.1f}, {how}){told}"
            )
            found.append({"run": facts["out"], "against": runs[0]["out"], "figure": key, "points": round(apart["points"], 3),
                          "low": round(low, 3), "high": round(high, 3), "paired": apart["paired"], "says": says})  # fmt: skip
    return found


def _why_unpaired(
    key: str, first: tuple[dict[str, Any], dict[str, Any]], other: tuple[dict[str, Any], dict[str, Any]]
) -> str:
    """Why two runs' figure cannot be compared query by query; "" where it can.

    Args:
        first, other: facts and the student's record of each.
    """
    records = first[1], other[1]
    prints = [(record.get("data") or {}).get("fingerprint") for record in records]
    if None in prints or prints[0] != prints[1]:
        return "they were judged on different data, which the difference is of too"
    if key == "zero_shot_top1":
        sets = [
            (
                facts["recipe"]["eval"].get("zero_shot"),
                *(record["zero_shot"].get(name) for name in ("task", "images", "classes")),
            )
            for facts, record in (first, other)
        ]
        if sets[0] != sets[1]:
            return "they were judged on different classes or images of them, which the difference is of too"
    texts = [record.get("hits", {}).get(key) for record in records]
    if not all(texts):
        return "a run of an older version does not say which queries were found"
    if [len(word) for word in texts[0].split()] != [len(word) for word in texts[1].split()]:
        return "they were asked different queries"
    return ""

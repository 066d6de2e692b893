"""How far two runs' students lie apart, with an interval: a difference that the number of images cannot show is called so.

The interval of a difference is made of both figures' own ones, see `difference_interval`.
"""

from pathlib import Path
from typing import Any

from distill.evaluation.metrics import difference_interval as difference_interval
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


def differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An entry per figure and further run, in percentage points: its student less the first run's.

    Args:
        rows: of `distill compare`'s table, each with "intervals"; all judged on the same data.
    """
    students = [row for row in rows if row["role"] == "student"]
    found = []
    for other in students[1:]:
        first = students[0]
        for key, name in METRICS.items():
            ends = first["intervals"].get(key), other["intervals"].get(key)
            if first[key] is None or other[key] is None or None in ends:
                continue
            low, high = difference_interval((first[key], *ends[0]), (other[key], *ends[1]))
            apart = other[key] - first[key]
            told = "" if low > 0 or high < 0 else "; not distinguishable"
            says = (
                f"{Path(other['run']).name} against {Path(first['run']).name}: {name} {apart:+.1f} points "
                f"({low:+.1f} to {high:+.1f}){told}"
            )
            found.append({"run": other["run"], "against": first["run"], "figure": key, "points": round(apart, 3),
                          "low": round(low, 3), "high": round(high, 3), "says": says})  # fmt: skip
    return found

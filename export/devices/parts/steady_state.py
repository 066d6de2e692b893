"""What rounds of calls on a phone come to: percentiles of the steady state, and what is odd about them."""

from typing import Any

import numpy as np

from export.devices.parts.runners import Timing
from export.settings import ProfileSettings

SETTLED = 0.05  # a first call that is slower than the later ones by more than this share still warms up


def steady(times: tuple[float, ...], warmup_runs: int) -> tuple[list[float], bool]:
    """The calls of the steady state, and whether it was reached.

    At least `warmup_runs` calls are dropped, then those in front that are slower by more than `SETTLED` than the median of all
    from there on. Where that would drop more than half, nothing more is dropped, and the answer is False.
    """
    kept = list(times[warmup_runs:])
    for start in range(len(kept) // 2 + 1):
        if kept[start] <= (1 + SETTLED) * float(np.median(kept[start:])):
            return kept[start:], True
    return kept, False


def summed_up(rounds: list[Timing], settings: ProfileSettings) -> dict[str, Any]:
    """p50, p90 and p99 over all rounds, each round's p50, and notes, of what a runner printed."""
    notes: list[str] = []
    if all(timing.percentiles for timing in rounds):
        each = [timing.percentiles for timing in rounds if timing.percentiles]
        p50, p90, p99 = (
            None
            if any(value is None for value in column)
            else float(np.median([value for value in column if value is not None]))
            for column in zip(*each, strict=True)
        )
        medians = [item[0] for item in each]
        if p90 is None:
            notes.append("this runner tells no p90 and p99")
        runs = settings.runs
    else:
        kept = [steady(timing.times_ms, settings.warmup_runs) for timing in rounds]
        calls = [time for times, _ in kept for time in times]
        p50, p90, p99 = (float(value) for value in np.percentile(calls, [50, 90, 99]))
        medians = [float(np.median(times)) for times, _ in kept]
        runs = len(calls)
        if not all(reached for _, reached in kept):
            notes.append("no steady state: calls kept getting faster or slower")
        if all(len(set(timing.times_ms)) == 1 for timing in rounds) and len(rounds[0].times_ms) > 1:
            notes.append("this runner tells only the sum of its calls, warm-up included: figures are of rounds' means")
    loads = [timing.load_ms for timing in rounds if timing.load_ms is not None]
    spread = (max(medians) - min(medians)) / min(medians) if min(medians) > 0 else 0.0
    return {
        "p50_ms": round(float(p50 or 0), 4),
        "p90_ms": None if p90 is None else round(p90, 4),
        "p99_ms": None if p99 is None else round(p99, 4),
        "rounds_p50_ms": tuple(round(median, 4) for median in medians),
        "load_ms": round(float(np.median(loads)), 3) if loads else None,
        "runs": runs,
        "notes": [*notes, f"rounds differ by {100 * spread:.0f} %"],
    }

"""`curate`: run filters over a finished reinforced set, each on the samples that the one before kept.

The result says of every sample whether it is kept, how often it is used, or which filter dropped it and why.
Nothing of the set is changed or copied. Left out: filters over sources that were not
reinforced (there is nothing stored to read).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.core.errors import UsageError
from distill.core.progress import Progress, silent
from reinforced_data.curation.filter import Filter, Outcome, Rows, parse_filter
from reinforced_data.curation.histogram import histogram
from reinforced_data.curation.selection import Selection
from reinforced_data.store.identity import set_identity
from reinforced_data.store.reader import ReinforcedData


def curate(data: ReinforcedData, filters: Sequence[str], seed: int = 0, progress: Progress = silent) -> Selection:
    """Run `filters` (see `parse_filter`) in the order given. The result is a function of the arguments alone.

    About 120 bytes a sample besides what the filters say of themselves: 120 MB per million.

    Args:
        progress: counts filters; the note is the name of the next.

    Raises:
        UsageError: a filter or its settings are wrong, or two filters set repeats.
        DistillError: the set cannot be read.
    """
    if not filters:
        raise UsageError("Name at least one filter, for example score:keep=0.2 (see distill list filters).")
    chain = [parse_filter(text) for text in filters]
    keys = [data.text(index).key for index in range(len(data))]
    rows = Rows(data, np.arange(len(data)), keys)
    result = Selection(
        set_identity(data.manifest), seed, [], keys, np.ones(len(data), np.int64), np.zeros(len(data), np.int32), []
    )
    repeated = ""
    for number, (name, filter_) in enumerate(chain, 1):
        progress(number - 1, len(chain), name)
        label = f"{number}:{name}"
        outcome = filter_.select(rows, seed) if len(rows) else Outcome({})
        if outcome.repeats is not None:
            if repeated:
                raise UsageError(f"The filters {repeated} and {label} both set repeats. Keep one of them.")
            repeated = label
            result.repeats[rows.indices] = outcome.repeats
        rows = _apply(result, rows, label, filter_, outcome)
    progress(len(chain), len(chain), "")
    return result


def is_made(folder: Path, data: ReinforcedData, filters: Sequence[str], seed: int = 0) -> bool:
    """Whether `folder` holds what `curate` makes of these arguments.

    Raises UsageError when it is no selection, DistillError when it is damaged.
    """
    if not folder.exists():
        return False
    stored = Selection.load(folder)
    chain = [parse_filter(text) for text in filters]
    wanted = [(f"{number}:{name}", filter_.model_dump(mode="json")) for number, (name, filter_) in enumerate(chain, 1)]
    found = [(step["filter"], step["settings"]) for step in stored.steps]
    return stored.set_sha256 == set_identity(data.manifest) and stored.seed == seed and found == wanted


def _apply(result: Selection, rows: Rows, label: str, filter_: Filter, outcome: Outcome) -> Rows:
    """Enter in `result` what a filter decided about `rows`; returns the rows that are kept."""
    keep = np.ones(len(rows), bool)
    counts: dict[str, int] = {}
    for reason, mask in outcome.dropped.items():
        new = mask & keep
        if new.any():
            counts[reason] = int(new.sum())
            result.causes.append((label, reason))
            result.why[rows.indices[new]] = len(result.causes)
            keep &= ~mask
    result.repeats[rows.indices[~keep]] = 0
    kept = rows.where(keep, outcome.scores)
    result.steps.append(
        {
            "filter": label,
            "settings": filter_.model_dump(mode="json"),
            "came": len(rows),
            "kept": len(kept),
            "draws": int(result.repeats[kept.indices].sum()),
            "dropped": counts,
            "histogram": None if outcome.scores is None else histogram(outcome.scores, keep, outcome.score_name),
            "facts": outcome.facts,
        }
    )
    return kept

"""Mix several scores into one and draw from it with a soft cap on repeats (FLYT)."""

from decimal import Decimal

import numpy as np
from pydantic import Field

from distill.core.arrays import Array
from distill.core.errors import UsageError
from distill.core.streams import Stream, rng
from reinforced_data.curation.filter import FILTERS, Filter, Outcome, Rows, fraction_of
from reinforced_data.curation.filters.score import Captions, caption_scores

ROUNDS = 1000  # the authors draw 128 million in rounds of 100 thousand


@FILTERS.register("mix")
class Mix(Filter):
    """Score mixing with soft cap sampling (FLYT, arXiv:2503.08805, checked against the authors' released notebook).

    Each score is brought to mean 0 and deviation 1 over the incoming samples (NaN counts as the lowest), and they are
    added with their weights. Weights are given, not learnt: learning them is FLYT's own training and is left out. From
    the sum, soft cap sampling draws `size` times the number of incoming samples: in rounds of `batch` without
    replacement from its softmax, after each of which a drawn sample's sum falls by `penalty`. A sample drawn r times is
    used r times an epoch, one that is never drawn is dropped. 40 bytes a sample: 40 MB per million.
    """

    weights: str = Field(
        "",
        description='"NAME=WEIGHT;NAME=WEIGHT": a teacher, or #2 for the score of the second filter; empty = teachers',
    )
    size: Decimal = Field(Decimal(1), gt=0, le=100, description="draws per incoming sample")
    penalty: float = Field(0.15, ge=0, description="fall of the log probability per draw; 0.15 was their best")
    batch: int | None = Field(None, ge=1, description="draws per round; None = a thousandth of all")
    captions: Captions = Field("best", description="see the filter score")

    def select(self, rows: Rows, seed: int) -> Outcome:
        """Draw from the mixed score. Raises UsageError for a score that there is not."""
        mixed = np.zeros(len(rows))
        parts = self._parts(rows)
        for name, weight in parts.items():
            mixed += weight * standardised(self._score(rows, name))
        draws = fraction_of(self.size, len(rows))
        repeats = soft_cap_sample(mixed, draws, self.penalty, self.batch or max(1, draws // ROUNDS), seed)
        return Outcome(
            {"never drawn": repeats == 0},
            mixed,
            "mixed score, " + " + ".join(f"{weight:g} {name}" for name, weight in parts.items()),
            repeats=repeats,
            facts={"draws": int(repeats.sum()), "most_repeats": int(repeats.max())},
        )

    def _parts(self, rows: Rows) -> dict[str, float]:
        if not self.weights:
            return dict.fromkeys(rows.data.teacher_facts, 1.0)
        parts: dict[str, float] = {}
        for item in filter(None, self.weights.split(";")):
            name, equals, weight = item.rpartition("=")
            try:
                parts[name.strip()] = float(weight)
            except ValueError:
                equals = ""
            if not equals or not name.strip():
                raise UsageError(f"filter 'mix': weights {item!r}: write NAME=WEIGHT;NAME=WEIGHT with a number each.")
        return parts

    def _score(self, rows: Rows, name: str) -> Array:
        if not name.startswith("#"):
            return caption_scores(rows, rows.teacher(name), self.captions)
        place = int(name[1:]) - 1 if name[1:].isdigit() else -1
        column = rows.scores[place] if 0 <= place < len(rows.scores) else None
        if column is None:
            raise UsageError(
                f"filter 'mix': there is no score {name!r}; {len(rows.scores)} filters come before this one, and those "
                "by bytes or hash have no score."
            )
        return column


def standardised(scores: Array) -> Array:
    """Mean 0 and deviation 1 over the finite ones ([n] float64); what is not finite gets the lowest."""
    known = np.isfinite(scores)
    if not known.any():
        return np.zeros(len(scores))
    values = scores[known]
    deviation = values.std()
    result = np.zeros(len(scores))
    result[known] = (values - values.mean()) / (deviation if deviation > 1e-12 else 1)
    result[~known] = result[known].min()
    return result


def soft_cap_sample(logits: Array, draws: int, penalty: float, batch: int, seed: int) -> Array:
    """How often each of n rows is drawn, [n] int64, `draws` in all.

    A round without replacement is the top `batch` of logits plus Gumbel noise, which has that very distribution (Kool
    et al., arXiv:1903.06059) and needs no normalisation.
    """
    noise = rng(Stream.MIX, seed)
    logits = logits.astype(np.float64).copy()
    counts = np.zeros(len(logits), np.int64)
    left = draws
    while left:
        size = min(batch, left, len(logits))
        noisy = logits + noise.gumbel(size=len(logits))
        drawn = np.argpartition(-noisy, size - 1)[:size]
        counts[drawn] += 1
        logits[drawn] -= penalty
        left -= size
    return counts

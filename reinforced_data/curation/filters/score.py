"""Keep the pairs whose caption fits the image, as a teacher sees it (LAION's threshold, DFN's top fraction)."""

from decimal import Decimal
from typing import Literal

import numpy as np
from pydantic import Field

from distill.core.arrays import Array
from distill.core.errors import UsageError
from reinforced_data.curation.filter import FILTERS, Filter, Outcome, Rows, by_rank, fraction_of, mean_view, unit
from reinforced_data.store.reader import ReinforcedData

Captions = Literal["best", "mean", "real"]


@FILTERS.register("score")
class Score(Filter):
    """Teacher score of image and caption: a threshold (LAION), the best fraction (DFN), or both.

    The score is the cosine between the mean of the stored views and a caption. LAION-400M kept 0.3 and more, LAION-5B
    0.28, both by OpenAI's ViT-B/32 (arXiv:2210.08402, section 3); DFN keeps the best 15 to 20 % by its own network
    (arXiv:2309.17425). A threshold belongs to its teacher: other teachers have other cosines, so look at the histogram.
    The fraction is of the samples that come in, rounded down; equal scores go by key. 16 bytes a sample: 16 MB per
    million, besides keys.
    """

    teacher: str | None = Field(None, description="None = the set's first")
    min: float | None = Field(None, ge=-1, le=1, description="lowest cosine that is kept")
    keep: Decimal | None = Field(None, gt=0, le=1, description="fraction of the incoming samples")
    captions: Captions = Field("best", description="the best caption, the mean of all, or the best of the real ones")

    def select(self, rows: Rows, seed: int) -> Outcome:
        """Drop low scores. Samples that have no real caption are dropped with captions=real."""
        if self.min is None and self.keep is None:
            raise UsageError("filter 'score': give min=COSINE, keep=FRACTION or both, for example score:keep=0.2.")
        teacher = rows.teacher(self.teacher)
        scores = caption_scores(rows, teacher, self.captions)
        dropped = {"no real caption": np.isnan(scores)}
        if self.min is not None:
            dropped[f"score under {self.min:g}"] = scores < self.min
        if self.keep is not None:
            behind = np.ones(len(rows), bool)
            behind[by_rank(scores, rows.keys)[: fraction_of(self.keep, len(rows))]] = False
            dropped[f"not in the best {float(self.keep) * 100:g} %"] = behind
        return Outcome(dropped, scores, f"cosine of image and caption by {teacher} ({self.captions})")


def caption_scores(rows: Rows, teacher: str, captions: Captions) -> Array:
    """The score of every row, [n] float64; NaN where no caption counts."""
    scores = np.empty(len(rows), np.float64)
    for part in rows.blocks():
        scores[part] = [_score(rows.data, int(index), teacher, captions) for index in rows.indices[part]]
    return scores


def _score(data: ReinforcedData, index: int, teacher: str, captions: Captions) -> float:
    """Row by row in float64, so that equal samples get equal scores whatever lies beside them."""
    cosines = unit(data.text_embeds(index, teacher)) @ mean_view(data, index, teacher)
    if captions == "real":
        cosines = cosines[[caption.source == "real" for caption in data.text(index).captions]]
    if not len(cosines):
        return float("nan")
    return float(cosines.mean() if captions == "mean" else cosines.max())

"""What an architecture may be worth before it is trained: a prior from published accuracies, which ranks candidates and no more.

A model's published ImageNet figure is brought to one way of training (MobileCLIP2's), since a user's run has none of their data.
What a doubling of the image tower's multiply-adds and of the text blocks' parameters is worth is the median over pairs of
published models that were trained alike. Architectures that nobody has published stand on that line; others as far above
or below it as published. Left out: the user's data, teachers and length of training, which decide the real accuracy.
"""

import functools
import math
import statistics
from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

from distill.reporting.pareto.published import PUBLISHED, Published, published_of

REFERENCE = "MobileCLIP2"  # the recipe whose level the prior is at
LEAST_STEP = 0.25  # doublings; two models that are nearer say nothing of a slope
# Points that a precision is taken to lose. Assumed, not published for small CLIPs: export measures the real loss.
PRECISION_COST: Mapping[str, float] = {
    "fp32": 0.0, "fp16": 0.0, "w8": 0.5, "p8": 0.5, "p6": 1.0, "w8a16": 2.0, "w8a8-dynamic": 2.0, "p4": 4.0, "w8a8": 4.0,
}  # fmt: skip


class Line(NamedTuple):
    """Points of ImageNet: per doubling of image multiply-adds and of text parameters, and each recipe's level at 1 and 1."""

    image: float
    text: float
    levels: dict[str, float]

    def beyond(self, accuracy: float, image_gmacs: float, text_mparams: float) -> float:
        """What an accuracy is without what size explains."""
        return accuracy - self.image * math.log2(image_gmacs) - self.text * math.log2(text_mparams)


@functools.cache
def line() -> Line:
    """The line through `PUBLISHED`."""
    pairs = [(a, b) for a, b in combinations(PUBLISHED, 2) if a.recipe == b.recipe]
    steps = [(a, b, _step(a.image_gmacs, b.image_gmacs), _step(a.text_mparams, b.text_mparams)) for a, b in pairs]
    image = statistics.median(
        (b.imagenet - a.imagenet) / wider for a, b, wider, _ in steps if a.text == b.text and abs(wider) >= LEAST_STEP
    )
    text = statistics.median(
        (b.imagenet - a.imagenet - image * wider) / longer for a, b, wider, longer in steps if abs(longer) >= LEAST_STEP
    )
    without = Line(image, text, {})
    levels = {
        recipe: statistics.median(_beyond(without, row) for row in PUBLISHED if row.recipe == recipe)
        for recipe in {row.recipe for row in PUBLISHED}
    }
    return without._replace(levels=levels)


def _step(a: float, b: float) -> float:
    return math.log2(b / a)


def _beyond(through: Line, row: Published) -> float:
    return through.beyond(row.imagenet, row.image_gmacs, row.text_mparams)


def prior(model_cfg: dict[str, Any], image_gmacs: float, text_mparams: float, precision: str) -> float:
    """A number that ranks candidates: ImageNet zero-shot top-1 in percent if they were trained as MobileCLIP2 was.

    Args:
        model_cfg: open_clip's configuration of the family at its own size, by which published models are found.
        image_gmacs, text_mparams: of the candidate: multiply-adds of its image tower in thousand millions, parameters of its
            text blocks in millions.
        precision: of its files.
    """
    through = line()
    own = [_beyond(through, row) - through.levels[row.recipe] for row in published_of(model_cfg)]
    better = statistics.mean(own) if own else 0.0
    size = through.image * math.log2(image_gmacs) + through.text * math.log2(text_mparams)
    return through.levels[REFERENCE] + size + better - PRECISION_COST.get(precision, 0.0)

"""The rules by which a view becomes pixels, by name, and how far an image may be reduced before a view is cut out of it.

- "pillow": the whole image decoded and the crop resized by Pillow, as the published recipes do.
- "turbo": a JPEG decoded no finer than the view needs, the crop resized by torch's vectorised kernel of the same filter;
  see `picture`. Crops are drawn on a grain of up to 8 pixels, so that they are whole pixels of a reduced image too.

A set is labelled and replayed by one rule, which its manifest names.
"""

from typing import Literal

Rendering = Literal["pillow", "turbo"]

FACTORS = (8, 4, 2)  # what libjpeg decodes at 1/factor with vector instructions
SPARE = 1.25  # the crop in the reduced image stays at least this many times the output's side
SMALL_SIDE = 128  # pixels; images no larger are rendered alike by both rules: there is nothing to gain
_LEAST_OUTPUT = 32  # pixels; the grain leaves the reductions of outputs from here on open

Box = tuple[float, float, float, float]  # (left, top, right, bottom), pixels


def reduction(box: Box, output: int, spare: float = SPARE) -> int:
    """1, 2, 4 or 8: by how much an image may be reduced before `box` of it becomes output x output pixels."""
    shorter = min(box[2] - box[0], box[3] - box[1])
    return max((factor for factor in FACTORS if shorter / factor >= spare * output), default=1)


def whole_reduction(box: Box, output: int) -> int:
    """`reduction`, or the next smaller one by which the box's sides are whole pixels still."""
    most = reduction(box, output)
    fits = (factor for factor in FACTORS if factor <= most and all(side % factor == 0 for side in box))
    return max(fits, default=1)


def on_grain(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A crop (left, top, width, height; pixels) of an image of `size` with its sides on multiples of 2, 4 or 8 pixels.

    A crop moves by half a grain at most, which is an eightieth of its side; near the right and lower border by a whole one. Crops
    of less than 80 pixels and images of at most `SMALL_SIDE` stay as they are.
    """
    left, top, width, height = box
    grain = reduction((0, 0, width, height), _LEAST_OUTPUT)
    if grain == 1 or max(size) <= SMALL_SIDE:
        return box
    left, width = _on_grain(left, width, size[0], grain)
    top, height = _on_grain(top, height, size[1], grain)
    return left, top, width, height


def _on_grain(start: int, length: int, side: int, grain: int) -> tuple[int, int]:
    within = side // grain
    cells = min(round(length / grain), within)
    return min(round(start / grain), within - cells) * grain, cells * grain

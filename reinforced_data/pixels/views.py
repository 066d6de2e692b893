"""Views: drawing crop boxes and colour operations, and replaying them exactly. Decoding lives in `decode`.

A view is stored relative to its image: the crop box as fractions, translations as fractions of the crop, everything
else in units of its own, so that a resized copy of the image replays the same view at any output size. Replay uses
Pillow and no random numbers: with the same Pillow version it gives the same bytes. Numbers of a view are float32
values, since that is how they are stored.

The preset "mobileclip" is that of MobileCLIP's released recipe (RandomResizedCrop with scale 0.08-1, then RandAugment
with 2 operations of magnitude 9 of 30; arXiv 2311.17049, Cubuk et al. arXiv 1909.13719), with torchvision's operation
semantics, which the tests check against torchvision. No horizontal flip, as published.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import UsageError, nearest
from reinforced_data.pixels.decode import square_view
from reinforced_data.pixels.rendering import Rendering, on_grain
from reinforced_data.sample import View

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ViewPreset:
    """How views are drawn.

    Attributes:
        scale: least and greatest share of the image's area in the crop; None = always the centred square.
        ratio: least and greatest width / height of the crop.
        ops: how many RandAugment operations follow.
        magnitude: their strength, 0 to 30.
    """

    scale: tuple[float, float] | None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ops: int = 0
    magnitude: int = 0


VIEW_PRESETS: dict[str, ViewPreset] = {
    "none": ViewPreset(scale=None),
    "light": ViewPreset(scale=(0.6, 1.0)),
    "mobileclip": ViewPreset(scale=(0.08, 1.0), ops=2, magnitude=9),
    "strong": ViewPreset(scale=(0.05, 1.0), ops=3, magnitude=14),
}


def view_preset(name: str) -> ViewPreset:
    """The preset called `name`. Raises UsageError with the nearest known name."""
    if name not in VIEW_PRESETS:
        raise UsageError(f"Unknown view preset {name!r}. {nearest(name, VIEW_PRESETS)}")
    return VIEW_PRESETS[name]


def draw_view(preset: str, width: int, height: int, rng: np.random.Generator, rendering: Rendering = "pillow") -> View:
    """A random view of a width x height (pixels) image, for a rule of `rendering`. Raises UsageError for an unknown preset."""
    rules = view_preset(preset)
    if rules.scale is None:
        return storable(square_view(width, height))
    left, top, w, h = _draw_box(rules.scale, rules.ratio, width, height, rng)
    if rendering == "turbo":
        left, top, w, h = on_grain((left, top, w, h), (width, height))
    box = (left / width, top / height, w / width, h / height)
    names = OPERATION_NAMES  # sorted: what is drawn must not depend on the order in which code lists operations
    ops = tuple(
        (name, _MAGNITUDES[name](rules.magnitude / 30, rng))
        for name in (names[int(rng.integers(len(names)))] for _ in range(rules.ops))
    )
    return storable(View(box=box, ops=ops))


def storable(view: View) -> View:
    """`view` with its numbers rounded to float32, as the store keeps them."""
    # Now, not when the shard is written: else teachers would see a view that differs from the stored one in its last bits.
    left, top, width, height = (float(np.float32(value)) for value in view.box)
    ops = tuple((name, float(np.float32(magnitude))) for name, magnitude in view.ops)
    return View(box=(left, top, width, height), ops=ops)


def _draw_box(
    scale: tuple[float, float], ratio: tuple[float, float], width: int, height: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, width, height), whole pixels, as torchvision's RandomResizedCrop draws.

    The share of the area is uniform; the shape (width / height) is uniform in its logarithm, so that upright and lying
    crops are equally likely. A crop that does not fit is drawn again, ten times, and then it is the largest centred one
    of an allowed shape: a long panorama would else never end.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, w, h
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = max(1, min(width, round(height * shape))), max(1, min(height, round(width / shape)))
    return (width - w) // 2, (height - h) // 2, w, h


def crop_square(image: "Image", view: View, size: int) -> "Image":
    """The view's box of an RGB image, resized to size x size (antialiased bicubic), without its operations."""
    from PIL.Image import Resampling

    box = box_pixels(view, image.size)
    # Two ways of resizing, because a resized copy of the image may have the box's sides between pixels.
    if all(side.is_integer() for side in box):
        # Cut first, as torchvision does: no pixel outside the box then reaches its edges, and published views replay.
        return image.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3]))).resize((size, size), Resampling.BICUBIC)
    return image.resize((size, size), Resampling.BICUBIC, box=box)


def box_pixels(view: View, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The view's (left, top, right, bottom) in an image of `size` (width, height), pixels."""
    left, top, width, height = view.box
    right, bottom = min(1.0, left + width), min(1.0, top + height)
    return (_snap(left * size[0]), _snap(top * size[1]), _snap(right * size[0]), _snap(bottom * size[1]))


def _snap(pixels: float) -> float:
    """`pixels`, or the whole or half pixel that it means.

    Boxes are drawn on whole pixels (halves come from centred squares) and kept as float32 fractions, whose 24 bits miss
    by up to a hundredth of a pixel in an image 100,000 wide. Unsnapped, the resize would blend in a neighbouring pixel.
    """
    halves = round(pixels * 2) / 2
    return float(halves if abs(pixels - halves) < 1e-2 else pixels)


def render_view(image: "Image", view: View, size: int) -> Array:
    """Replay `view` on an RGB image: [size, size, 3] uint8, exactly. Raises UsageError for an unknown operation."""
    return np.array(apply_operations(crop_square(image, view, size), view))  # a copy that may be written to


def apply_operations(crop: "Image", view: View) -> "Image":
    """The view's operations, in order, on what its box gave. Raises UsageError for an unknown one."""
    for name, magnitude in view.ops:
        crop = operation(name)(crop, magnitude)
    return crop


def operation(name: str) -> "Callable[[Image, float], Image]":
    """The operation called `name`: (image, magnitude) -> image. Raises UsageError for an unknown one."""
    if name not in _OPERATIONS:
        raise UsageError(f"Unknown view operation {name!r} in a stored view. {nearest(name, _OPERATIONS)}")
    return _OPERATIONS[name]


# Nearest-neighbour and black outside the image, as in the published recipes: smoother pixels would be other views.
def _affine(image: "Image", matrix: tuple[float, float, float, float, float, float]) -> "Image":
    from PIL.Image import Resampling, Transform

    return image.transform(image.size, Transform.AFFINE, matrix, Resampling.NEAREST, fillcolor=(0, 0, 0))


def _rotate(image: "Image", degrees: float) -> "Image":
    from PIL.Image import Resampling

    return image.rotate(degrees, Resampling.NEAREST, fillcolor=(0, 0, 0))


def _enhance(kind: str) -> "Callable[[Image, float], Image]":
    def apply(image: "Image", change: float) -> "Image":
        from PIL import ImageEnhance

        enhanced: Image = getattr(ImageEnhance, kind)(image).enhance(1.0 + change)
        return enhanced

    return apply


def _pixelwise(kind: str) -> "Callable[[Image, float], Image]":
    def apply(image: "Image", amount: float) -> "Image":
        from PIL import ImageOps

        if kind == "posterize":
            return ImageOps.posterize(image, int(amount))
        if kind == "solarize":
            return ImageOps.solarize(image, amount)  # type: ignore[arg-type]  # fractions are fine
        return ImageOps.autocontrast(image) if kind == "autocontrast" else ImageOps.equalize(image)

    return apply


# Operation -> (image, magnitude) -> image. Magnitudes: shears are slopes, translations fractions of the crop's side
# (positive moves the content right or down by whole pixels), rotations degrees counter-clockwise, the four enhancements
# a relative change (0 = none), posterize bits kept, solarize the level from which values are inverted.
_OPERATIONS: "dict[str, Callable[[Image, float], Image]]" = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, slope: _affine(image, (1, slope, 0, 0, 1, 0)),
    "shear_y": lambda image, slope: _affine(image, (1, 0, 0, slope, 1, 0)),
    "translate_x": lambda image, share: _affine(image, (1, 0, -int(share * image.width), 0, 1, 0)),
    "translate_y": lambda image, share: _affine(image, (1, 0, 0, 0, 1, -int(share * image.height))),
    "rotate": _rotate,
    "brightness": _enhance("Brightness"),
    "color": _enhance("Color"),
    "contrast": _enhance("Contrast"),
    "sharpness": _enhance("Sharpness"),
    "posterize": _pixelwise("posterize"),
    "solarize": _pixelwise("solarize"),
    "autocontrast": _pixelwise("autocontrast"),
    "equalize": _pixelwise("equalize"),
}

OPERATION_NAMES = tuple(sorted(_OPERATIONS))  # what the store's numbers mean, and what is drawn from


def _signed(most: float) -> Callable[[float, np.random.Generator], float]:
    """A magnitude up to `most`, to either side with equal chance."""
    return lambda strength, rng: most * strength * (1.0 if rng.integers(2) else -1.0)


def _fixed(amount: Callable[[float], float]) -> Callable[[float, np.random.Generator], float]:
    """A magnitude that the strength alone decides; no random number is drawn for it."""
    return lambda strength, _: amount(strength)


# Operation -> (strength in 0..1, rng) -> magnitude. The extremes are torchvision's: 150 pixels of a 331-pixel image for
# translations, 30 degrees, slope 0.3, change 0.9, four bits fewer, threshold 255 down to 0.
_MAGNITUDES: dict[str, Callable[[float, np.random.Generator], float]] = {
    "identity": _fixed(lambda _: 0.0),
    "shear_x": _signed(0.3),
    "shear_y": _signed(0.3),
    "translate_x": _signed(150 / 331),
    "translate_y": _signed(150 / 331),
    "rotate": _signed(30.0),
    "brightness": _signed(0.9),
    "color": _signed(0.9),
    "contrast": _signed(0.9),
    "sharpness": _signed(0.9),
    "posterize": _fixed(lambda strength: 8.0 - round(4 * strength)),
    "solarize": _fixed(lambda strength: 255.0 * (1.0 - strength)),
    "autocontrast": _fixed(lambda _: 0.0),
    "equalize": _fixed(lambda _: 0.0),
}

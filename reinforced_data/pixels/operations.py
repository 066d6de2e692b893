"""The operations of views on arrays, with Pillow's results to the last bit at a fraction of its time (rule "turbo").

What changes every value by itself is one table of 256 bytes, made by Pillow on a ramp and kept, or a mask; sharpness is a box
sum in integers; translations are copies, and so are shears that come again, while rotations that do are looked up (`moves`).
Autocontrast leaves alone what fills the range already, as photos mostly do. Colour and equalize are Pillow's own.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from distill.core.arrays import Array
from reinforced_data.pixels.moves import moved
from reinforced_data.pixels.scratch import Scratch
from reinforced_data.pixels.views import operation
from reinforced_data.sample import View

if TYPE_CHECKING:
    from PIL.Image import Image


_PLAIN = bytes(range(256))
_MOVES = ("shear_x", "shear_y", "rotate")
_scratch = Scratch()


def apply_to_array(crop: Array, view: View) -> Array:
    """The view's operations, in order, on [S, S, 3] uint8, which may be overwritten. Raises UsageError for an unknown one."""
    current: Array | Image = crop
    for name, magnitude in view.ops:
        found: Array | None = None
        if name in _ON_ARRAYS:
            found = _ON_ARRAYS[name](_as_array(current), magnitude)
        elif name in _MOVES and isinstance(current, np.ndarray):
            found = moved(name, current, magnitude)
        current = found if found is not None else operation(name)(_as_image(current), magnitude)
    array = _as_array(current)
    return array if array.flags.writeable else array.copy()


def _as_array(pixels: "Array | Image") -> Array:
    return pixels if isinstance(pixels, np.ndarray) else np.asarray(pixels)


def _as_image(pixels: "Array | Image") -> "Image":
    from PIL import Image

    return Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels


def _by_table(name: str) -> Callable[[Array, float], Array]:
    return lambda pixels, magnitude: _through(_table(name, magnitude), pixels)


@lru_cache(maxsize=256)
def _table(name: str, magnitude: float) -> bytes:
    """What an operation that looks at one value at a time makes of 0 to 255."""
    from PIL import Image

    ramp = Image.merge("RGB", [Image.frombytes("L", (256, 1), bytes(range(256)))] * 3)
    return operation(name)(ramp, magnitude).getchannel(0).tobytes()


def _through(table: bytes, pixels: Array) -> Array:
    return np.frombuffer(bytearray(np.ascontiguousarray(pixels)).translate(table), np.uint8).reshape(pixels.shape)


def _posterize(pixels: Array, bits: float) -> Array:
    return (
        pixels & np.uint8(256 - (1 << (8 - int(bits))))
        if 0 < bits <= 8
        else _through(_table("posterize", bits), pixels)
    )


def _solarize(pixels: Array, least: float) -> Array:
    level = math.ceil(least)
    if not 0 < level < 256:
        return pixels if level > 0 else ~pixels
    turned: Array = pixels ^ ((pixels >= np.uint8(level)).view(np.uint8) * np.uint8(255))
    return turned


def _autocontrast(pixels: Array, _: float) -> Array:
    rows = pixels.reshape(pixels.shape[0], -1)  # first over rows, whose bytes lie side by side
    lows, highs = (of(of(rows, 0).reshape(-1, 3), 0).tolist() for of in (np.min, np.max))
    return _by_channel(pixels, [_stretched(low, high) for low, high in zip(lows, highs, strict=True)])


@lru_cache(maxsize=1024)
def _stretched(low: int, high: int) -> bytes:
    """The values from `low` to `high` laid over all 256; as they are where there is one."""
    if high <= low:
        return _PLAIN
    scale = 255.0 / (high - low)
    return (np.arange(256) * scale + -low * scale).astype(np.int64).clip(0, 255).astype(np.uint8).tobytes()


def _by_channel(pixels: "Array | Image", tables: list[bytes]) -> Array:
    """Every channel through a table of its own."""
    first = tables[0]
    if first == tables[1] == tables[2]:
        return _as_array(pixels) if first == _PLAIN else _through(first, _as_array(pixels))
    return _as_array(_as_image(pixels).point([*b"".join(tables)]))


def _contrast(pixels: Array, change: float) -> Array:
    values = _as_image(pixels).convert("L").histogram()
    mean = int(float(np.dot(values, np.arange(256))) / sum(values) + 0.5)
    return _through(_contrast_table(mean, change), pixels)


@lru_cache(maxsize=1024)
def _contrast_table(mean: int, change: float) -> bytes:
    from PIL import Image

    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    return Image.blend(Image.new("L", ramp.size, mean), ramp, 1.0 + change).tobytes()


def _sharpness(pixels: Array, change: float) -> Array:
    """Away from, or towards, the mean of the 3 x 3 pixels around, in which the middle one counts five times."""
    height, width = pixels.shape[:2]
    if min(height, width) < 3:
        return _as_array(operation("sharpness")(_as_image(pixels), change))
    rows, sums = _scratch.array("rows", (2, height, width * 3), np.uint16)
    rows[:] = pixels.reshape(height, width * 3)
    sums, middle = sums[1:-1], rows[1:-1, 3:-3]
    np.add(rows[:-2], rows[2:], out=sums)
    sums += rows[1:-1]
    smooth, changed = _scratch.array("blend", (2, *middle.shape), np.float32)
    total = middle * np.uint16(4)
    for shift in (sums[:, :-6], sums[:, 3:-3], sums[:, 6:]):
        total += shift
    total *= 2  # / 13, rounded: 13 is odd, so no half can be met
    total += 13
    total //= 26
    smooth[:] = total
    np.subtract(middle, smooth, out=changed)  # in float32 and in this order, as Pillow blends
    changed *= np.float32(1.0 + change)
    changed += smooth
    np.clip(changed, 0, 255, out=changed)
    result = np.array(pixels, order="C")
    result.reshape(height, width * 3)[1:-1, 3:-3] = changed
    return result


def _translate_x(pixels: Array, share: float) -> Array:
    by = int(share * pixels.shape[1])
    moved = np.zeros_like(pixels, order="C")
    moved[:, max(0, by) : pixels.shape[1] + min(0, by)] = pixels[:, max(0, -by) : pixels.shape[1] - max(0, by)]
    return moved


def _translate_y(pixels: Array, share: float) -> Array:
    by = int(share * pixels.shape[0])
    moved = np.zeros_like(pixels, order="C")
    moved[max(0, by) : pixels.shape[0] + min(0, by)] = pixels[max(0, -by) : pixels.shape[0] - max(0, by)]
    return moved


_ON_ARRAYS: dict[str, Callable[[Array, float], Array]] = {
    "identity": lambda pixels, _: pixels,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "brightness": _by_table("brightness"),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "contrast": _contrast,
    "sharpness": _sharpness,
}

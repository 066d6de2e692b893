"""The operations of views on arrays, with Pillow's results to the last bit at a fraction of its time (rule "turbo").

What changes every value by itself is one table of 256 bytes, made by Pillow on a ramp and kept; sharpness is a box sum in
integers; translations are copies. The others are Pillow's own, with tables made by NumPy where Pillow loops in Python.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from distill.core.arrays import Array
from reinforced_data.pixels.scratch import Scratch
from reinforced_data.pixels.views import operation
from reinforced_data.sample import View

if TYPE_CHECKING:
    from PIL.Image import Image


_scratch = Scratch()


def apply_to_array(crop: Array, view: View) -> Array:
    """The view's operations, in order, on [S, S, 3] uint8, which may be overwritten. Raises UsageError for an unknown one."""
    current: Array | Image = crop
    for name, magnitude in view.ops:
        if name in _ON_ARRAYS:
            current = _ON_ARRAYS[name](_as_array(current), magnitude)
        else:
            current = operation(name)(_as_image(current), magnitude)
    array = _as_array(current)
    return array if array.flags.writeable else array.copy()


def _as_array(pixels: "Array | Image") -> Array:
    return pixels if isinstance(pixels, np.ndarray) else np.array(pixels)


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
    "posterize": _by_table("posterize"),
    "solarize": _by_table("solarize"),
    "contrast": _contrast,
    "sharpness": _sharpness,
}

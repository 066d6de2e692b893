"""`Picture`: an encoded image and its views as pixels, by one of the rules of `rendering`.

The rule "turbo" in full. A JPEG that libjpeg-turbo can decode is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 that
leaves the crop `SPARE` times the output and its sides whole pixels; anything else is decoded by Pillow. The crop alone is
resized, by torch's antialiased bicubic kernel for uint8 (integer arithmetic, so no order of sums can change it); a photo
stored turned is turned afterwards. Crops between pixels and images of at most `SMALL_SIDE` pixels are rendered as by the
rule "pillow". The operations are Pillow's under both rules.
"""

from typing import TYPE_CHECKING

import numpy as np

from distill.core.arrays import Array
from reinforced_data.pixels.decode import decode_rgb
from reinforced_data.pixels.jpeg import JpegHeader, decode_jpeg, read_header
from reinforced_data.pixels.rendering import SMALL_SIDE, Box, Rendering, whole_reduction
from reinforced_data.pixels.views import apply_operations, box_pixels, render_view
from reinforced_data.sample import View

if TYPE_CHECKING:
    from PIL.Image import Image


class Picture:
    """An encoded image under a rule. What a view needs of it is decoded when it is asked for, and kept with the object.

    Not for several threads at once. `size`, `image` and `render` raise BadImageError naming `key` for an image that cannot
    be used; with the rule "turbo" the size comes from the header, and only rendering finds damage after it.
    """

    def __init__(self, data: bytes, key: str, rendering: Rendering = "pillow") -> None:
        self._data, self._key, self._rendering = data, key, rendering
        self._header: JpegHeader | None = read_header(data) if rendering == "turbo" else None
        self._image: Image | None = None
        self._pixels: dict[int, Array] = {}  # factor -> the pixels as stored, at 1/factor of their size

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image, pixels."""
        return self._header.size if self._header is not None else self.image.size

    @property
    def image(self) -> "Image":
        """The whole upright image, decoded by Pillow."""
        if self._image is None:
            self._image = decode_rgb(self._data, self._key)
        return self._image

    def render(self, view: View, output: int) -> Array:
        """`view` as [output, output, 3] uint8. Raises UsageError for an unknown operation."""
        box = box_pixels(view, self.size)
        if self._rendering == "pillow" or max(self.size) <= SMALL_SIDE or not all(side.is_integer() for side in box):
            return render_view(self.image, view, output)
        crop = self._crop(box, output)
        if not view.ops:
            return np.ascontiguousarray(crop)
        from PIL import Image

        return np.array(apply_operations(Image.fromarray(crop), view))  # a copy that may be written to

    def _crop(self, box: Box, output: int) -> Array:
        header = self._header
        if header is not None:
            stored = header.turn.stored_box(box, header.size)
            factor = whole_reduction(stored, output)
            if factor in self._pixels or self._decode(header, factor):
                return header.turn.upright(_resized(self._pixels[factor], stored, factor, output))
        if 1 not in self._pixels:
            self._pixels[1] = np.array(self.image)
        return _resized(self._pixels[1], box, 1, output)

    def _decode(self, header: JpegHeader, factor: int) -> bool:
        """Keep the pixels at 1/factor; False, and the image is Pillow's from now on, where they are damaged."""
        pixels = decode_jpeg(self._data, header, factor)
        if pixels is None:
            self._header = None
            self._pixels.clear()
            return False
        self._pixels[factor] = pixels
        return True


def _resized(pixels: Array, box: Box, factor: int, output: int) -> Array:
    """The pixels of `box` / factor, resized by an antialiased bicubic filter: [H, W, 3] -> [output, output, 3] uint8."""
    import torch
    from torch.nn.functional import interpolate

    left, top, right, bottom = (int(side) // factor for side in box)
    crop = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right])).permute(2, 0, 1)
    small = interpolate(crop[None], (output, output), mode="bicubic", antialias=True)
    resized: Array = small[0].permute(1, 2, 0).numpy()
    return resized

"""`Picture`: an encoded image and its views as pixels, by one of the rules of `rendering`.

The rule "turbo" in full. A JPEG that libjpeg-turbo can decode is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 that
leaves the crop `SPARE` times the output and its sides whole pixels; anything else is decoded by Pillow. The crop alone is
resized, by torch's antialiased bicubic kernel for uint8 (integer arithmetic, so no order of sums can change it); a photo
stored turned is turned afterwards. Crops between pixels and images of at most `SMALL_SIDE` pixels are rendered as by the
rule "pillow". The operations have Pillow's results under both rules.
"""

from typing import TYPE_CHECKING

import numpy as np

from distill.core.arrays import Array
from reinforced_data.pixels.decode import decode_rgb
from reinforced_data.pixels.jpeg import JpegHeader, decode_jpeg, read_header
from reinforced_data.pixels.operations import apply_to_array
from reinforced_data.pixels.rendering import SMALL_SIDE, Box, Rendering, whole_reduction
from reinforced_data.pixels.scratch import Scratch
from reinforced_data.pixels.views import box_pixels, render_view
from reinforced_data.sample import View

if TYPE_CHECKING:
    from PIL.Image import Image


_scratch = Scratch()
_MARGIN = 8  # rows of the reduced image below a crop that smooth upsampling of colours may look at


class Picture:
    """An encoded image under a rule. What a view needs of it is decoded when it is asked for, and kept with the object.

    Not for several threads at once. `whole` says that the file is known to decode whole, as that of a finished set is: decoding
    then ends where the view does, and the pixels are the same.

    `size`, `image` and `render` raise BadImageError naming `key` for an image that cannot
    be used; with the rule "turbo" the size comes from the header, and only rendering finds damage after it.
    """

    def __init__(self, data: bytes, key: str, rendering: Rendering = "pillow", whole: bool = False) -> None:
        self._data, self._key, self._rendering, self._whole = data, key, rendering, whole
        self._header: JpegHeader | None = read_header(data) if rendering == "turbo" else None
        self._image: Image | None = None
        self._held: dict[int, Array] | None = None  # what was decoded, by the factor that it is smaller
        self._forgiven = whole  # damage, if there is any, is such that Pillow shows the image all the same

    def hold(self) -> None:
        """Keep what is decoded from now on with the object, in memory of its own; rendering changes no pixel by it."""
        self._held = {}

    @property
    def held_bytes(self) -> int:
        """Memory that the object takes."""
        pixels = sum(array.nbytes for array in (self._held or {}).values())
        whole = 4 * self._image.width * self._image.height if self._image is not None else 0  # Pillow's RGB
        return len(self._data) + pixels + whole

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
        return np.ascontiguousarray(apply_to_array(crop, view))

    def _crop(self, box: Box, output: int) -> Array:
        header = self._header
        if header is not None:
            stored = header.turn.stored_box(box, header.size)
            factor = whole_reduction(stored, output)
            pixels = self._decoded(header, factor, int(stored[3]))
            if pixels is not None:
                return header.turn.upright(_resized(pixels, stored, factor, output))
        return _resized(np.asarray(self.image), box, 1, output)

    def _decoded(self, header: JpegHeader, factor: int, bottom: int) -> Array | None:
        """The stored pixels at 1/factor, down to the row `bottom` of the whole ones at least.

        None where libjpeg-turbo cannot decode them; the image is Pillow's from now on.
        """
        width, height = header.stored
        if self._held is not None:
            return self._holding(header, factor, self._held)
        pixels = _scratch.content(factor, self)
        if pixels is not None:
            cut = pixels.shape[0] < -(-height // factor)
            exact = (
                pixels.shape[0] - _MARGIN if cut else pixels.shape[0]
            )  # the last rows above a cut are not those of the whole
            if exact * factor >= bottom:
                return pixels
        rows = min(height, bottom + _MARGIN * factor) if self._whole else height
        into = _scratch.array(factor, (-(-height // factor), -(-width // factor), 3))
        pixels = self._decode(header, factor, rows, into)
        if pixels is not None:
            _scratch.fill(factor, self, pixels)
        return pixels

    def _holding(self, header: JpegHeader, factor: int, held: dict[int, Array]) -> Array | None:
        pixels = held.get(factor)
        if pixels is None and (pixels := self._decode(header, factor, header.stored[1], None)) is not None:
            held[factor] = pixels
        return pixels

    def _decode(self, header: JpegHeader, factor: int, rows: int, into: Array | None) -> Array | None:
        pixels = decode_jpeg(self._data, header, factor, rows=rows, forgiving=self._forgiven, into=into)
        if pixels is None and not self._forgiven:
            _ = self.image  # raises where the damage is such that Pillow refuses the image
            self._forgiven = True
            pixels = decode_jpeg(self._data, header, factor, forgiving=True, into=into)
        if pixels is None:
            self._header = None
        return pixels


def _resized(pixels: Array, box: Box, factor: int, output: int) -> Array:
    """The pixels of `box` / factor, resized by an antialiased bicubic filter: [H, W, 3] -> [output, output, 3] uint8."""
    import torch

    left, top, right, bottom = (int(side) // factor for side in box)
    crop = _scratch.array("crop", (1, bottom - top, right - left, 3))
    np.copyto(crop[0], pixels[top:bottom, left:right])
    resized = np.empty((1, output, output, 3), np.uint8)
    given, wanted = (torch.from_numpy(array).permute(0, 3, 1, 2) for array in (crop, resized))
    # What torch.nn.functional.interpolate calls, which always returns channels first: turning that costs as much as resizing.
    torch.ops.aten._upsample_bicubic2d_aa.out(given, [output, output], False, None, None, out=wanted)
    whole: Array = resized[0]
    return whole

"""Replaying a stored view of a set whose rule is "pillow": exactly, or fast and very nearly so.

"exact" is what teachers saw: the whole image decoded, resized by Pillow. "fast" takes two short cuts, both
deterministic: a JPEG whose crop is much larger than the output is decoded at 1/2, 1/4 or 1/8 of its size (in the DCT,
by libjpeg), and a crop of whole pixels is resized by torch's vectorised kernel, which rounds otherwise here and there
and does not look beyond the crop's border. How far the pixels are apart is measured by benchmarks/loader.py and bounded
in the tests. Labelling and verification never come here, and neither do sets whose rule is "turbo": their exact replay is
the fast one.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np

from distill.core.arrays import Array
from reinforced_data.pixels.decode import decode_reduced
from reinforced_data.pixels.rendering import reduction
from reinforced_data.pixels.views import apply_operations, box_pixels, render_view
from reinforced_data.sample import View
from reinforced_data.store.reader import ReinforcedData

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Replay = Literal["exact", "fast"]
SPARE = 1.5  # the crop in the reduced image stays at least this many times the output's side


def stored_view(data: ReinforcedData, index: int, view: View, output: int) -> Array:
    """The "fast" replay of a view of sample `index`: [output, output, 3] uint8.

    Raises DistillError naming the sample as `ReinforcedData.decoded` does.
    """
    size = data.size(index)
    factor = reduction((0, 0, view.box[2] * size[0], view.box[3] * size[1]), output, SPARE)
    if factor > 1:
        reduced = decode_reduced(data.image(index), factor, size)
        if reduced is not None:
            return fast_view(reduced, view, output, size)
    return fast_view(data.decoded(index), view, output, size)


def fast_view(image: "Image", view: View, output: int, size: tuple[int, int]) -> Array:
    """`view` of an image of `size` pixels, of which `image` may be a reduced copy: [output, output, 3] uint8."""
    from PIL import Image

    if image.size != size:
        factor = round(size[0] / image.width)  # a reduced pixel covers factor x factor, the last ones less
        left, top, right, bottom = (side / factor for side in box_pixels(view, size))
        box = (left, top, min(right, image.width), min(bottom, image.height))
        return np.array(apply_operations(image.resize((output, output), Image.Resampling.BICUBIC, box=box), view))
    box = box_pixels(view, size)
    if not all(side.is_integer() for side in box):
        return render_view(image, view, output)
    crop = _resized(image, (int(box[0]), int(box[1]), int(box[2]), int(box[3])), output)
    return np.array(apply_operations(Image.fromarray(crop), view)) if view.ops else crop


def _resized(image: "Image", box: tuple[int, int, int, int], output: int) -> Array:
    """Antialiased bicubic resize of whole pixels."""
    from torch.nn.functional import interpolate

    pixels = _pixels(image)[box[1] : box[3], box[0] : box[2]]
    small = interpolate(pixels.permute(2, 0, 1)[None], (output, output), mode="bicubic", antialias=True)
    return np.ascontiguousarray(small[0, :3].permute(1, 2, 0).numpy())


def _pixels(image: "Image") -> "Tensor":
    """[H, W, 4] uint8 over Pillow's own memory where it lends it (11.3 and later), only to read; else a copy [H, W, 3]."""
    import pyarrow as pa
    import torch

    if hasattr(image, "__arrow_c_array__"):
        try:
            lent: Tensor = torch.from_dlpack(pa.array(image).flatten())  # type: ignore[attr-defined]
            return lent.reshape(image.height, image.width, 4)
        except (ValueError, pa.ArrowException):  # an image that Pillow keeps in several blocks of memory
            pass
    return torch.from_numpy(np.array(image))

"""Encoded bytes to an upright RGB image, or one error that names the sample. Views and resizing live in `views`.

Only formats whose decoders run inside Pillow are opened (no PostScript, no external program). Transparent pixels are
laid over white, because the colours hidden under alpha 0 are arbitrary. Nothing here changes Pillow's global limits.
"""

import functools
import io
import re
import warnings
from typing import TYPE_CHECKING

from distill.core.errors import DistillError
from reinforced_data.sample import View

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000  # above this a file is taken for a decompression bomb
_DAMAGED = "it is damaged or cut off"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")  # HEIF by pillow-heif
_ORIENTATION = 0x0112  # the EXIF tag


class BadImageError(DistillError):
    """One image cannot be used. The message names its key and what is wrong; `reason` is the latter alone."""

    def __init__(self, key: str, reason: str) -> None:
        key, reason = storable_text(key, 1024), storable_text(reason, 400)
        super().__init__(f"The image of sample {key!r} cannot be used: {reason}. Mend or remove that file.")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImageError"], tuple[str, str]]:
        return BadImageError, (self.key, self.reason)


def storable_text(text: str, most: int) -> str:
    """`text` as valid UTF-8 without NULs (file names and JSON need not be), at most `most` characters."""
    return text[:most].encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\0", " ")[:most]


def decode_rgb(data: bytes, key: str) -> "Image":
    """`data` as an upright 8-bit RGB image: EXIF rotation applied, first frame of an animation, white under alpha.

    Raises BadImageError naming `key` when the bytes are empty, truncated, no image, or more than `MAX_PIXELS` pixels.
    """
    if not data:
        raise BadImageError(key, "the file is empty (0 bytes)")
    try:
        return _decode(data, key)
    except BadImageError:
        raise
    except (
        Exception
    ) as error:  # Pillow's decoders raise a dozen types on damaged files; each costs one sample, not a run
        words = re.sub(
            r"<[^>]*>|0x[0-9a-fA-F]+", "", str(error)
        ).strip()  # no addresses: reasons are stored and compared
        raise BadImageError(key, f"it does not decode ({type(error).__name__}: {words[:200]})") from error


def shown_otherwise(data: bytes) -> str:
    """Why `decode_rgb` gives other pixels than Pillow's plain `convert("RGB")`, which published sets used; "" if not."""
    from PIL import Image

    _quiet_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            if orientation(image) != 1:
                return "its EXIF data turn it, which the published views ignored"
            if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
                return "it has transparent pixels, whose hidden colours the published views showed"
            return "it has 16 bits a pixel, which the published views clipped" if image.mode.startswith("I") else ""
    except Exception:  # decode_rgb tells what is wrong with it
        return ""


def decode_reduced(data: bytes, factor: int, size: tuple[int, int]) -> "Image | None":
    """A JPEG of `size` (width, height) decoded at 1/factor of it (2, 4 or 8), rounded up; None where that cannot be.

    It cannot for other formats, rotated photos, another size and files that do not decode: decode those whole, which
    also says what is wrong with them.
    """
    from PIL import Image, JpegImagePlugin

    _quiet_pillow()
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.size != size or orientation(image) != 1:
            return None
        image.draft(None, (size[0] // factor, size[1] // factor))
        image.load()
        if image.size != (-(-size[0] // factor), -(-size[1] // factor)):
            return None
        return _to_rgb(image, "")
    except Exception:  # whatever it is, the whole decode meets it again and names the sample
        return None


def _decode(data: bytes, key: str) -> "Image":
    from PIL import Image, UnidentifiedImageError

    _quiet_pillow()
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise BadImageError(key, _what_it_is(data)) from None
    except Image.DecompressionBombError:
        raise BadImageError(key, f"it has more than {MAX_PIXELS // 10**6} million pixels") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(key, f"it has {width} x {height} pixels, more than {MAX_PIXELS // 10**6} million")
    turn = orientation(image)
    image.load()
    return _upright(_to_rgb(image, key), turn)


def _what_it_is(data: bytes) -> str:
    """What bytes are that no decoder took, by how they begin, and what can be done; a decoder that is here took no damaged ones."""
    readable = _formats()
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"avif", b"avis"):
            return (
                _DAMAGED if "AVIF" in readable else "it is AVIF, which Pillow reads from 11.3 on: pip install -U pillow"
            )
        if data[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            return _DAMAGED if "HEIF" in readable else "it is HEIC, which is read with: pip install pillow-heif"
        return "it is a video, not an image"
    if b"<svg" in start:
        return "it is an SVG drawing, which has no pixels; convert it to PNG first"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "it is a web page, not an image: what was downloaded was an error; download it again"
    if start.startswith(b"%pdf"):
        return "it is a PDF, not an image; convert it first"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the image: git lfs pull"
    return "it is not an image in a known format"


def _quiet_pillow() -> None:
    """Have Pillow's remarks on size (our own limit decides) and damaged metadata (no reason to reject) not printed.

    A filter that stays, since warnings.catch_warnings in the decoding threads could undo that of another thread.
    """
    from PIL.Image import DecompressionBombWarning

    if not any(entry[0] == "ignore" and entry[2] is DecompressionBombWarning for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("ignore", category=DecompressionBombWarning)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow can read."""
    import importlib.util

    from PIL import Image

    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:  # the extra "heic"
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def orientation(image: "Image") -> int:
    """The EXIF orientation of an opened image, 1 (upright) where there is none."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1


def _upright(image: "Image", turn: int) -> "Image":
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[turn]) if turn in turns else image


def _to_rgb(image: "Image", key: str) -> "Image":
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.__class__ is not Image.Image else image  # drops the decoder and its file
    if image.mode == "F":
        raise BadImageError(key, "its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: "Image") -> "Image":
    """Grey images of 16 (or, from old files, 32) bits, scaled to 8; Pillow's own conversion clips them to white."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    scaled = np.clip((values * 255 + 32767) // 65535, 0, 255).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def square_view(width: int, height: int) -> View:
    """The centred square of a width x height image, as fractions of it."""
    side = min(width, height)
    return View(box=((width - side) / 2 / width, (height - side) / 2 / height, side / width, side / height))

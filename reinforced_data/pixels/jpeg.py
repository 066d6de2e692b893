"""JPEGs by libjpeg-turbo (package simplejpeg): headers, orientation, decoding at a fraction of the size.

What it does not decode is left to Pillow, which also says what is wrong with a file: other colours than grey, YCbCr and
RGB, other precisions than 8 bits, damaged data.
"""

import io
from dataclasses import dataclass
from typing import NamedTuple

from distill.core.arrays import Array
from reinforced_data.pixels.decode import MAX_PIXELS, orientation
from reinforced_data.pixels.rendering import Box

_COLOURS = ("YCbCr", "Gray", "RGB")
_TURN_MARKS = (b"Exif\0\0", b"tiff:Orientation")  # one of them is in every file that asks to be turned


class Turn(NamedTuple):
    """How stored pixels become upright: rows and columns swapped first, then columns or rows reversed."""

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def upright(self, pixels: Array) -> Array:
        """[H, W, 3] as stored -> upright, over the same memory."""
        pixels = pixels.transpose(1, 0, 2) if self.swap else pixels
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def stored_box(self, box: Box, size: tuple[int, int]) -> Box:
        """A box of an upright image of `size` (width, height) -> the same part of the stored pixels."""
        left, top, right, bottom = box
        if self.flip_x:
            left, right = size[0] - right, size[0] - left
        if self.flip_y:
            top, bottom = size[1] - bottom, size[1] - top
        return (top, left, bottom, right) if self.swap else (left, top, right, bottom)


# EXIF orientation -> the turn it asks for (TIFF 6.0, tag 274).
_TURNS = {
    2: Turn(flip_x=True),
    3: Turn(flip_x=True, flip_y=True),
    4: Turn(flip_y=True),
    5: Turn(swap=True),
    6: Turn(swap=True, flip_x=True),
    7: Turn(swap=True, flip_x=True, flip_y=True),
    8: Turn(swap=True, flip_y=True),
}


@dataclass(frozen=True)
class JpegHeader:
    """A JPEG that libjpeg-turbo can decode to RGB.

    Attributes:
        stored: (width, height) of its pixels as stored. turn: what makes them upright.
    """

    stored: tuple[int, int]
    turn: Turn

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return self.stored[::-1] if self.turn.swap else self.stored


def read_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG; None where Pillow has to open it: other formats, colours, damage, too many pixels."""
    import simplejpeg

    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in _COLOURS or width * height > MAX_PIXELS:
        return None
    return JpegHeader((width, height), _turn(data))


def _turn(data: bytes) -> Turn:
    # Metadata stand before the pixels. (The "pixels" may be those of a thumbnail, which stands in the EXIF data.)
    head = data[: data.find(b"\xff\xda") + 1]
    if not any(mark in head for mark in _TURN_MARKS):
        return Turn()
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return _TURNS.get(orientation(image), Turn())
    except Exception:  # a header that only libjpeg-turbo reads; decoding tells what is wrong
        return Turn()


def decode_jpeg(
    data: bytes,
    header: JpegHeader,
    factor: int,
    *,
    rows: int | None = None,
    forgiving: bool = False,
    into: Array | None = None,
) -> Array | None:
    """The stored pixels at 1/factor (1, 2, 4, 8) of their size, rounded up: [H, W, 3] uint8; None where that cannot be.

    Args:
        rows: only so many of the stored rows from the top are needed, and more may come. Decoding ends there where the file
            allows it, which needs `forgiving`: what the decoder then says of the rest is no news.
        forgiving: pixels that damaged data leave are pixels too, as Pillow sees it; else None.
        into: [H, W, 3] uint8, memory to use.
    """
    import simplejpeg

    width, height = header.stored
    if rows is not None and rows < height:
        shortened = _shortened(data, height, rows)
        if shortened is not None:
            data, height = shortened, rows
    width, height = -(-width // factor), -(-height // factor)
    buffer = None if into is None else into[:height]
    try:
        pixels: Array = simplejpeg.decode_jpeg(
            data, "RGB", min_width=width, min_height=height, min_factor=factor, buffer=buffer, strict=not forgiving
        )
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _shortened(data: bytes, height: int, rows: int) -> bytes | None:
    """A JPEG that says it has `rows` rows; None where the rows of its `height` do not come one after the other."""
    place = 2
    while place + 10 < len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in (0xC0, 0xC1):  # sequential Huffman coding: length, precision, height, width, components
            scan = data.find(b"\xff\xda", place)
            all_in_one = scan > 0 and data[scan + 4 : scan + 5] == data[place + 9 : place + 10]
            if not all_in_one or int.from_bytes(data[place + 5 : place + 7], "big") != height:
                return None
            return data[: place + 5] + rows.to_bytes(2, "big") + data[place + 7 :]
        if (0xC2 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker in (0xD9, 0xDA):
            return None
        place += 2 + length
    return None

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from reinforced_data.pixels import decode
from reinforced_data.pixels.decode import BadImageError, decode_rgb, square_view
from reinforced_data.pixels.views import render_view
from tests.reinforced_data.stubs import encoded, picture


def pixels(image):
    return np.asarray(image)


def test_rgb_png_comes_back_exactly():
    image = picture(0)
    assert (pixels(decode_rgb(encoded(image), "k")) == pixels(image)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_agrees_with_pillows_own_transpose(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(1, 30, 20), "JPEG", exif=exif, quality=95)
    with Image.open(io.BytesIO(data)) as opened:
        expected = pixels(ImageOps.exif_transpose(opened).convert("RGB"))
    ours = decode_rgb(data, "k")
    assert ours.size == ((20, 30) if orientation >= 5 else (30, 20))
    assert (pixels(ours) == expected).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    data = encoded(Image.fromarray(levels))
    assert pixels(decode_rgb(data, "k"))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_match_pillows_conversion(mode):
    format = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    data = encoded(picture(2, mode=mode), format)
    with Image.open(io.BytesIO(data)) as opened:
        expected = pixels(opened.convert("RGB"))
    assert (pixels(decode_rgb(data, "k")) == expected).all()


def test_transparent_pixels_become_white_whatever_colour_is_hidden_there():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((1, 2), (10, 20, 30, 255))
    out = pixels(decode_rgb(encoded(image), "k"))
    assert (out[0, 0] == 255).all()
    assert out[2, 1].tolist() == [10, 20, 30]


def test_palette_with_a_transparent_entry_gives_no_warning():
    image = picture(3).quantize(16)
    assert decode_rgb(encoded(image, transparency=bytes([0] * 8 + [255] * 8)), "k").mode == "RGB"


def test_first_frame_of_an_animation():
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert pixels(decode_rgb(data, "k"))[0, 0].tolist() == [250, 0, 0]


def png_header(width, height):
    """A PNG that claims a size and holds almost nothing: what a decompression bomb looks like from outside."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def corpus():
    """Damaged files, by what is wrong with them."""
    whole = {name: encoded(picture(4, 60, 40), name) for name in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")}
    bad = {
        "empty": b"",
        "text": b"this is not an image at all",
        "html": b"<html><body>404</body></html>",
        "bomb of 10^10 pixels": png_header(100_000, 100_000),
        "bomb of 1.2 * 10^8 pixels": png_header(12_000, 10_000),
        "zero bytes": bytes(1000),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "float tiff": encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    }
    for name, data in whole.items():
        bad[f"truncated {name}"] = data[: len(data) // 2]
        bad[f"header of {name}"] = data[:12]
    return bad


@pytest.mark.parametrize(("name", "data"), corpus().items(), ids=corpus().keys())
def test_damaged_files_are_one_error_that_names_the_sample(name, data):
    with pytest.raises(BadImageError) as caught:
        decode_rgb(data, "holiday/7.jpg")
    assert "holiday/7.jpg" in str(caught.value)
    assert caught.value.reason
    assert "0x" not in caught.value.reason


@pytest.mark.parametrize(
    ("brand", "format", "package"), [(b"avif", "AVIF", "pillow"), (b"heic", "HEIF", "pillow-heif")]
)
def test_a_format_that_is_read_here_needs_no_package_when_a_file_is_cut(monkeypatch, brand, format, package):
    """ "Install Pillow" was said of a cut AVIF, beside a Pillow that reads AVIF."""
    cut = struct.pack(">I", 24) + b"ftyp" + brand + bytes(12)
    for formats, words in ((("PNG", format), "damaged or cut off"), (("PNG",), f"pip install .*{package}$")):
        monkeypatch.setattr(decode, "_formats", lambda formats=formats: formats)
        assert re.search(words, decode._what_it_is(cut))


def test_flipped_bytes_never_crash():
    rng = np.random.default_rng(5)
    outcomes = {"image": 0, "bad": 0}
    for format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        data = np.frombuffer(encoded(picture(6), format), np.uint8)
        for _ in range(30):
            damaged = data.copy()
            places = rng.integers(0, len(data), 6)
            damaged[places] = rng.integers(0, 256, 6, dtype=np.uint8)
            try:
                assert decode_rgb(damaged.tobytes(), "k").mode == "RGB"
                outcomes["image"] += 1
            except BadImageError:
                outcomes["bad"] += 1
    assert outcomes["image"] > 0
    assert outcomes["bad"] > 0


def test_square_view_is_the_centre():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    rendered = render_view(Image.fromarray(image), square_view(60, 20), 20)
    assert (rendered == 200).all()


def test_a_large_but_allowed_size_warns_nobody():
    """Pillow's own warning starts at 89 million pixels; ours is the limit that counts. Here warnings are errors."""
    with pytest.raises(BadImageError, match="does not decode"):  # the header is accepted, the body is missing
        decode_rgb(png_header(10_000, 9_500), "k")

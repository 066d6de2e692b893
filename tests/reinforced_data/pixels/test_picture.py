"""The rule "turbo" against references of its own: float64 resizing, Pillow's decoder, whole decoding."""

import functools
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reinforced_data.pixels import moves
from reinforced_data.pixels.decode import BadImageError, decode_rgb
from reinforced_data.pixels.jpeg import decode_jpeg, read_header
from reinforced_data.pixels.operations import apply_to_array
from reinforced_data.pixels.picture import Picture
from reinforced_data.pixels.rendering import SMALL_SIDE, on_grain, reduction, whole_reduction
from reinforced_data.pixels.views import OPERATION_NAMES, apply_operations, box_pixels, draw_view, render_view
from reinforced_data.sample import View
from tests.reinforced_data.stubs import encoded, photo


def jpeg(image, **options):
    return encoded(image, "JPEG", **{"quality": 92, **options})


@functools.cache
def weights(length, output):
    """[output, length] float64: Keys' cubic (a = -1/2), as wide as the scale when reducing, rows that sum to 1."""
    scale = length / output
    at = (np.arange(output)[:, None] + 0.5) * scale - 0.5
    x = np.abs((np.arange(length)[None] - at) / max(scale, 1.0))
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    kernel = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return kernel / kernel.sum(1, keepdims=True)


def reference(pixels, output):
    """[H, W, 3] -> [output, output, 3] in float64, clipped and not rounded."""
    height, width = pixels.shape[:2]
    rows = (weights(height, output) @ pixels.astype(float).reshape(height, -1)).reshape(output, width, 3)
    small = weights(width, output) @ rows
    return small.clip(0, 255)


def cut(data, view):
    """The view's box of the image as Pillow decodes it: [h, w, 3]."""
    image = decode_rgb(data, "k")
    left, top, right, bottom = map(int, box_pixels(view, image.size))
    return np.asarray(image)[top:bottom, left:right]


def pixel_view(size, left, top, width, height, ops=()):
    return View((left / size[0], top / size[1], width / size[0], height / size[1]), ops)


CROPS = [(0, 0, 640, 480), (8, 16, 600, 400), (320, 80, 200, 360), (16, 8, 96, 80)]


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 40}]
)
@pytest.mark.parametrize("output", [224, 48])
def test_views_are_the_float64_resize_of_the_decoded_crop(options, output):
    data = jpeg(photo(0, 640, 480), **options)
    for crop in CROPS:
        view = pixel_view((640, 480), *crop)
        ours = Picture(data, "k", "turbo").render(view, output).astype(float)
        theirs = reference(cut(data, view), output)
        distance = np.abs(ours - theirs)
        factor = whole_reduction((0, 0, *crop[2:]), output)
        if factor == 1:  # rounding twice: after rows and after columns
            assert distance.max() < 2
            assert distance.mean() < 0.5
        else:
            # At 1/8 colours that are stored at half the columns come at half of the columns that are wanted.
            assert distance.mean() < (1.5 if factor < 8 else 3.5)
            assert np.abs(np.roll(ours, 1, 1) - theirs).mean() > 3 * distance.mean()


def test_a_png_takes_the_same_filter():
    image = photo(1, 400, 300)
    view = pixel_view((400, 300), 33, 21, 301, 255)
    ours = Picture(encoded(image), "k", "turbo").render(view, 64).astype(float)
    assert np.abs(ours - reference(cut(encoded(image), view), 64)).max() < 2


@pytest.mark.parametrize("crop", [(64, 32, 96, 96), (200, 104, 224, 224)])
def test_a_crop_of_the_outputs_size_is_the_decoded_crop_itself(crop):
    data = jpeg(photo(2, 640, 480))
    view = pixel_view((640, 480), *crop)
    assert (Picture(data, "k", "turbo").render(view, crop[2]) == cut(data, view)).all()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_crop_of_a_reduced_image_is_that_of_pillows_reduced_image(factor):
    data = jpeg(photo(3, 1033, 801), subsampling=2)
    with Image.open(io.BytesIO(data)) as opened:
        opened.draft("RGB", (1033 // factor, 801 // factor))
        reduced = np.asarray(opened)
    assert reduced.shape == (-(-801 // factor), -(-1033 // factor), 3)
    side, output = factor * 80, 64  # exactly SPARE times the output in the reduced image
    view = pixel_view((1033, 801), factor * 2, factor * 1, side, side)
    picture = Picture(data, "k", "turbo")
    ours = picture.render(view, output).astype(float)
    assert np.abs(ours - reference(reduced[1:81, 2:82], output)).max() < 2
    assert np.abs(ours - reference(reduced[1:81, 3:83], output)).max() > 10  # the measure would see a pixel's shift


def zone_plate(width, height):
    """Rings whose frequency grows from the centre to the border's limit; what is too fine for the output must turn grey."""
    y, x = np.mgrid[:height, :width].astype(float)
    radius2 = (x - width / 2) ** 2 + (y - height / 2) ** 2
    rings = 127.5 + 127.5 * np.cos(np.pi * radius2 / max(width, height))
    return Image.fromarray(np.repeat(rings[..., None], 3, 2).round().astype(np.uint8))


@pytest.mark.parametrize("output", [48, 100, 224])
def test_a_zone_plate_does_not_alias(output):
    data = jpeg(zone_plate(768, 768), quality=98, subsampling=0)
    ours = Picture(data, "k", "turbo").render(View(), output).astype(float)
    theirs = reference(cut(data, View()), output)
    assert np.abs(ours - theirs).mean() < 5  # the blocks of a DCT reduce the finest rings otherwise than a filter
    # Far from the centre, beyond the output's limit of frequency, nothing but the mean may be left.
    y, x = np.mgrid[:output, :output]
    beyond = np.hypot(x - output / 2 + 0.5, y - output / 2 + 0.5) > 0.75 * output / 2 + output * output / 768 / 2
    if beyond.any():
        assert ours[beyond].std() < theirs[beyond].std() + 4
    nearest = np.asarray(decode_rgb(data, "k").resize((output, output), Image.Resampling.NEAREST), float)
    assert np.abs(nearest - theirs).mean() > 20  # what aliasing looks like to this measure


@pytest.mark.parametrize("output", [64, 224])
@pytest.mark.parametrize("edge", [320, 321, 326])
def test_edges_stay_where_they_are(output, edge):
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[:, edge:] = 255
    data = jpeg(Image.fromarray(pixels), quality=98, subsampling=0)
    view = pixel_view((640, 480), 8, 16, 600, 400)
    ours = Picture(data, "k", "turbo").render(view, output).astype(float)[output // 2, :, 0]
    where = output - ours.sum() / 255  # of the edge, output pixels
    assert where == pytest.approx((edge - 8) * output / 600, abs=0.06)


@pytest.mark.parametrize("output", [64, 224])
def test_colour_ramps_keep_their_colours(output):
    y, x = np.mgrid[:480, :640]
    ramp = np.stack([x * 255 // 639, y * 255 // 479, 255 - x * 255 // 639], -1).astype(np.uint8)
    data = jpeg(Image.fromarray(ramp), quality=95)
    ours = Picture(data, "k", "turbo").render(View(), output).astype(float)
    signed = ours - reference(cut(data, View()), output)
    assert np.abs(signed.mean((0, 1))).max() < 0.3  # no channel gets lighter or darker
    assert np.abs(signed).max() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(640, 480), (523, 401)])
def test_turned_photos(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photo(4, *size), exif=exif)
    upright = decode_rgb(data, "k").size
    picture = Picture(data, "k", "turbo")
    assert picture.size == upright
    view = draw_view("light", *upright, np.random.default_rng(orientation), "turbo")
    ours, theirs = picture.render(view, 64).astype(float), reference(cut(data, view), 64)
    assert np.abs(ours - theirs).mean() < 1.5
    assert np.abs(ours[::-1] - theirs).mean() > 10


def test_an_orientation_in_xmp_counts_as_pillow_counts_it():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = jpeg(photo(4, 300, 200), xmp=xmp)
    assert Picture(data, "k", "turbo").size == decode_rgb(data, "k").size == (200, 300)


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_operations_are_those_of_the_rule_pillow(name):
    magnitude = {"posterize": 5.0, "solarize": 120.0, "rotate": -20.0}.get(name, 0.25)
    data = jpeg(photo(5, 300, 200))
    plain = Picture(data, "k", "turbo").render(View(), 96)
    changed = Picture(data, "k", "turbo").render(View(ops=((name, magnitude),)), 96)
    expected = np.asarray(apply_operations(Image.fromarray(plain), View(ops=((name, magnitude),))))
    assert (changed == expected).all()
    assert changed.flags.writeable


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_operations_on_arrays_have_pillows_results_to_the_last_bit(name):
    rng = np.random.default_rng(1)
    kinds = [
        rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        np.asarray(photo(0, 640, 480).resize((64, 64))),
        np.full((16, 16, 3), 77, np.uint8),
        rng.integers(0, 4, (31, 31, 3), dtype=np.uint8) * 20 + 70,  # few and near values: tables with holes
        rng.integers(0, 256, (1, 1, 3), dtype=np.uint8),
        rng.integers(0, 256, (2, 2, 3), dtype=np.uint8),
    ]
    for pixels in kinds:
        for _ in range(6):
            most = {"posterize": 8.0, "solarize": 256.0, "rotate": 40.0}.get(name, 0.95)
            magnitude = float(rng.uniform(1.0 if name == "posterize" else -most, most))
            view = View(ops=((name, abs(magnitude) if name == "solarize" else magnitude),))
            expected = np.asarray(apply_operations(Image.fromarray(pixels), view))
            assert (apply_to_array(pixels.copy(), view) == expected).all(), view


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "rotate"])
@pytest.mark.parametrize("magnitude", [0.09, -0.09, 0.3, -0.95, 9.0, -30.0, 0.0, 1e-4, 180.0, 90.0])
def test_moves_that_come_again_are_pillows_to_the_last_bit(name, magnitude):
    for shape in ((224, 224, 3), (50, 31, 3), (5, 90, 3), (1, 1, 3)):
        for turn in range(4):  # looked up from the second time on
            pixels = np.random.default_rng(turn).integers(0, 256, shape, dtype=np.uint8)
            expected = np.asarray(apply_operations(Image.fromarray(pixels), View(ops=((name, magnitude),))))
            given = pixels[:, ::-1].copy()[:, ::-1] if turn == 3 else pixels  # of any strides
            assert (apply_to_array(given, View(ops=((name, magnitude),))) == expected).all(), (shape, turn)


def test_moves_are_copies_where_runs_move_and_few_are_kept():
    assert moves._find("shear_x", 0.09, 224, 224).runs is not None
    assert moves._find("shear_y", -0.09, 224, 224).runs is not None
    assert moves._find("rotate", 9.0, 224, 224).pixels is not None
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert moves.moved("rotate", pixels, 9.0) is None
    assert moves.moved("rotate", pixels, 9.0) is not None
    for turn in range(200):  # magnitudes that come once push out none that comes again
        assert moves.moved("rotate", pixels, 10.0 + turn) is None
    assert moves._kept.moves[("rotate", 9.0, 8, 8)] is not None
    for turn in range(40):
        moves.moved("shear_x", pixels, turn / 100)
        moves.moved("shear_x", pixels, turn / 100)
    assert len(moves._kept.moves) <= moves._MOST_KEPT


def test_photos_that_fill_the_range_need_no_autocontrast():
    full = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    low = full // 2 + np.array([0, 20, 90], np.uint8)
    for pixels in (full, low, np.stack([full[..., 0], low[..., 1], full[..., 2]], -1), low[:, :, :1].repeat(3, 2)):
        expected = np.asarray(apply_operations(Image.fromarray(pixels), View(ops=(("autocontrast", 0.0),))))
        assert (apply_to_array(pixels.copy(), View(ops=(("autocontrast", 0.0),))) == expected).all()


def test_what_libjpeg_turbo_refuses_is_pillows():
    image = photo(6, 300, 200)
    view = pixel_view((300, 200), 3, 5, 222, 131)
    deep = encoded(Image.fromarray(np.linspace(0, 65535, 300 * 200).reshape(200, 300).astype(np.uint16)))
    for data in (jpeg(image.convert("CMYK")), encoded(image), encoded(image, "WEBP"), encoded(image, "GIF"), deep):
        assert read_header(data) is None
        ours = Picture(data, "k", "turbo").render(view, 64).astype(float)
        assert np.abs(ours - reference(cut(data, view), 64)).max() < 2


def test_grey_jpegs_need_no_pillow():
    data = jpeg(photo(6, 300, 200).convert("L"))
    assert read_header(data) is not None
    ours = Picture(data, "k", "turbo").render(View(), 224)
    assert np.abs(ours - reference(cut(data, View()), 224)).max() < 2
    assert (ours[..., 0] == ours[..., 1]).all()


@pytest.mark.parametrize("rendering", ["pillow", "turbo"])
@pytest.mark.parametrize("output", [48, 224])
def test_damaged_files_are_refused_with_pillows_reason(rendering, output):
    whole = jpeg(photo(7, 640, 480))
    for data in (whole[: len(whole) // 2], whole[:300], whole[:2], b"", b"\xff\xd8\xff" + b"\0" * 50):
        with pytest.raises(BadImageError) as pillows:
            decode_rgb(data, "photo-7")
        with pytest.raises(BadImageError) as ours:
            Picture(data, "photo-7", rendering).render(View(), output)
        assert ours.value.reason == pillows.value.reason
        assert "photo-7" in str(ours.value)


@functools.cache
def kinds_of_jpeg():
    image = photo(8, 641, 479)
    exif = Image.Exif()
    exif[0x0112] = 6
    flawed = bytearray(jpeg(image))
    flawed[len(flawed) // 3 : len(flawed) // 3 + 2] = b"\xff\xd0"
    return {
        "4:2:0": jpeg(image), "4:2:2": jpeg(image, subsampling=1), "4:4:4": jpeg(image, subsampling=0),
        "grey": jpeg(image.convert("L")), "progressive": jpeg(image, progressive=True), "turned": jpeg(image, exif=exif),
        "restarts": jpeg(image, restart_marker_blocks=7), "flawed": bytes(flawed),
        "comment": jpeg(image, comment=b"\xff\xda and other markers \xff\xc0"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", kinds_of_jpeg())
def test_decoding_that_ends_with_the_view_changes_no_pixel(kind):
    data = kinds_of_jpeg()[kind]
    size = decode_rgb(data, "k").size
    shorter = 0
    for seed in range(4):
        view = draw_view("mobileclip", *size, np.random.default_rng(seed), "turbo")
        for output in (32, 48, 224):
            whole = Picture(data, "k", "turbo").render(view, output)
            assert (Picture(data, "k", "turbo", whole=True).render(view, output) == whole).all()
        header = read_header(data)
        box = header.turn.stored_box(box_pixels(view, size), size)
        part = decode_jpeg(data, header, 1, rows=int(box[3]), forgiving=True)
        shorter += part.shape[0] < header.stored[1]
    assert bool(shorter) == (kind != "progressive")


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_view_that_finds_the_picture_decoded_for_another_one_is_the_same(factor):
    """The rows just above where decoding ended are smoothed without their neighbours; no other view may use them."""
    colours = np.random.default_rng(0).integers(0, 256, (480 // factor, 640 // factor, 3), np.uint8)
    data = jpeg(Image.fromarray(colours).resize((640, 480), Image.Resampling.NEAREST))
    reader = Picture(data, "k", "turbo", whole=True)
    lower = range(0, 17 * factor, factor)  # some end where decoding for the one before did
    views = [View((64 / 640, 240 / 480, 192 * factor / 640, (48 * factor + more) / 480)) for more in lower]
    in_turn = [reader.render(view, 32) for view in views]  # before any other picture takes the memory
    alone = [Picture(data, "k", "turbo").render(view, 32) for view in views]
    assert [(a == b).all() for a, b in zip(in_turn, alone, strict=True)] == [True] * 17


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_rows_above_the_end_of_decoding_are_those_of_the_whole_image(factor):
    data = jpeg(photo(8, 641, 479), subsampling=2)
    header = read_header(data)
    whole = decode_jpeg(data, header, factor)
    for bottom in range(0, 479 // factor - 8, 3):
        part = decode_jpeg(data, header, factor, rows=(bottom + 8) * factor, forgiving=True)
        assert part.shape[0] == bottom + 8
        assert (part[:bottom] == whole[:bottom]).all()


def test_bytes_after_the_image_do_no_harm():
    data = jpeg(photo(8, 300, 200))
    longer = Picture(data + b"\0" * 1000, "k", "turbo").render(View(), 64)
    assert (longer == Picture(data, "k", "turbo").render(View(), 64)).all()


def test_a_photo_with_a_flaw_that_pillow_forgives_is_used():
    data = bytearray(jpeg(photo(8, 640, 480)))
    data[len(data) // 2 : len(data) // 2 + 2] = b"\xff\xd0"  # a restart marker where none belongs
    assert decode_jpeg(bytes(data), read_header(bytes(data)), 1) is None
    expected = decode_rgb(bytes(data), "k")
    ours = Picture(bytes(data), "k", "turbo").render(View(), 224).astype(float)
    assert np.abs(ours - reference(np.asarray(expected), 224)).max() < 2


def test_more_pixels_than_allowed_are_refused_by_both_rules():
    data = bytearray(jpeg(Image.new("RGB", (64, 64))))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = (60000).to_bytes(2, "big") * 2
    for rendering in ("pillow", "turbo"):
        with pytest.raises(BadImageError, match="million"):
            Picture(bytes(data), "k", rendering).render(View(), 32)


@given(width=st.integers(1, 900), height=st.integers(1, 900), seed=st.integers(0, 2**32),
       preset=st.sampled_from(["light", "mobileclip", "strong"]))  # fmt: skip
@settings(max_examples=60)
def test_crops_on_the_grain_are_near_the_drawn_ones_and_inside(width, height, seed, preset):
    drawn = box_pixels(draw_view(preset, width, height, np.random.default_rng(seed)), (width, height))
    ours = box_pixels(draw_view(preset, width, height, np.random.default_rng(seed), "turbo"), (width, height))
    assert all(side.is_integer() for side in ours)
    assert 0 <= ours[0] < ours[2] <= width
    assert 0 <= ours[1] < ours[3] <= height
    shorter = min(drawn[2] - drawn[0], drawn[3] - drawn[1])
    assert (
        max(abs(a - b) for a, b in zip(drawn, ours, strict=True)) <= shorter / 32
    )  # a grain is a fortieth, and moves may add up at the border
    if max(width, height) <= SMALL_SIDE:
        assert ours == drawn
        return
    # What the grain is for: no reduction is lost that the drawn crop allows. One that is rounded up to where the next begins has
    # the grain of the drawn one still, and is decoded a step finer than it might be.
    for output in (32, 64, 224):
        assert whole_reduction(ours, output) >= reduction(drawn, output)


def test_the_grain_in_numbers():
    assert on_grain((13, 10, 401, 390), (500, 403)) == (16, 8, 400, 392)
    assert on_grain((97, 0, 403, 403), (500, 403)) == (96, 0, 400, 400)  # the last 3 and 4 pixels fill no cell
    assert on_grain((3, 3, 79, 300), (500, 403)) == (3, 3, 79, 300)
    assert on_grain((3, 3, 100, 100), (128, 128)) == (3, 3, 100, 100)


def test_a_box_between_pixels_and_a_small_image_are_the_rule_pillows():
    data = jpeg(photo(9, 301, 200))
    view = View((0.1003, 0.2002, 0.5001, 0.6003))
    assert (Picture(data, "k", "turbo").render(view, 64) == render_view(decode_rgb(data, "k"), view, 64)).all()
    small = jpeg(photo(9, 128, 100))
    view = draw_view("mobileclip", 128, 100, np.random.default_rng(0), "turbo")
    assert (Picture(small, "k", "turbo").render(view, 64) == render_view(decode_rgb(small, "k"), view, 64)).all()


def test_views_do_not_depend_on_threads_nor_on_what_was_asked_before():
    data = [jpeg(photo(seed, 640, 480)) for seed in range(3)]
    views = [draw_view("mobileclip", 640, 480, np.random.default_rng(n), "turbo") for n in range(6)]
    jobs = [(n % 3, view, output) for n, view in enumerate(views) for output in (32, 64, 224)]
    alone = [Picture(data[n], "k", "turbo").render(view, output) for n, view, output in jobs]
    kept = {n: Picture(data[n], "k", "turbo") for n in range(3)}
    assert all((kept[n].render(view, output) == a).all() for (n, view, output), a in zip(jobs, alone, strict=True))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            again = pool.map(lambda job: Picture(data[job[0]], "k", "turbo").render(*job[1:]), jobs)
            assert all((a == b).all() for a, b in zip(alone, again, strict=True))


def common(pixels, side=32):
    """What two sizes of one view have in common: the means of side x side areas."""
    return np.asarray(reference(pixels, side))


@pytest.mark.parametrize(("teacher", "student"), [(224, 256), (224, 64), (336, 224)])
def test_teacher_and_student_see_one_view_alike(teacher, student):
    worst = functools.reduce(max, (
        np.abs(common(picture.render(view, teacher)) - common(picture.render(view, student))).mean()
        for n, size in enumerate([(1000, 750), (640, 481), (350, 517)])
        for picture in [Picture(jpeg(photo(n, *size)), "k", "turbo")]
        for view in [draw_view("light", *size, np.random.default_rng(n), "turbo")]
    ))  # fmt: skip
    assert worst < 1.5


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_decoding_at_a_fraction_is_asked_of_libjpeg_as_such(factor):
    data = jpeg(photo(1, 101, 67), subsampling=0)
    pixels = decode_jpeg(data, read_header(data), factor)
    assert pixels.shape == (-(-67 // factor), -(-101 // factor), 3)
    whole = np.asarray(decode_rgb(data, "k"), float)[: 67 // factor * factor, : 101 // factor * factor]
    means = whole.reshape(67 // factor, factor, 101 // factor, factor, 3).mean((1, 3))
    assert np.abs(pixels[: 67 // factor, : 101 // factor] - means).mean() < (1e-9 if factor == 1 else 3)

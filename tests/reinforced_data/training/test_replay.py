"""The fast replay: near the exact one, by the stored box, and only where its short cuts hold."""

import numpy as np
import pytest
from PIL import Image

from reinforced_data.pixels.decode import decode_reduced, decode_rgb
from reinforced_data.pixels.rendering import reduction
from reinforced_data.pixels.views import box_pixels, draw_view, render_view
from reinforced_data.sample import Caption, RawSample, View
from reinforced_data.training.pairs import StoredPairs
from reinforced_data.training.replay import SPARE, fast_view, stored_view
from tests.reinforced_data.stubs import ListSource, encoded, make_set, photo, two_teachers


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    sizes = [(640, 481), (333, 517), (224, 224), (1001, 700)]
    raw = [
        RawSample(f"p{n}", encoded(photo(n, *size), "JPEG", quality=90), (Caption("a"),))
        for n, size in enumerate(sizes)
    ]
    raw.append(RawSample("png", encoded(photo(9, 500, 400)), (Caption("a"),)))
    grey = encoded(photo(10, 600, 400).convert("L"), "JPEG", quality=90)
    raw.append(RawSample("grey", grey, (Caption("a"),)))
    exif = Image.Exif()
    exif[0x0112] = 6
    raw.append(RawSample("turned", encoded(photo(11, 600, 400), "JPEG", quality=90, exif=exif), (Caption("a"),)))
    out = tmp_path_factory.mktemp("replay") / "set"
    make_set(ListSource(raw), two_teachers(), out, views_per_image=4, view_preset="mobileclip", embed_dtype="fp16",
              shard_size=4, batch_size=4, seed=0, rendering="pillow")  # fmt: skip
    return out


@pytest.mark.parametrize("output", [32, 64, 224])
def test_fast_pixels_are_near_the_exact_ones(stored, output):
    data = StoredPairs(stored, output).data
    factors = set()
    for index in range(len(data)):
        for number in range(4):
            view = View(data.view(index, number).box)  # colour operations may blow a rounding up; see the next test
            factors.add(reduction(box_pixels(view, data.size(index)), output, SPARE))
            exact = render_view(data.decoded(index), view, output).astype(int)
            fast = stored_view(data, index, view, output).astype(int)
            assert np.abs(fast - exact).mean() < 1.5, (data.key(index), number)
            shifted = np.roll(exact, 1, axis=1)
            assert np.abs(fast - shifted).mean() > 2 * np.abs(fast - exact).mean()  # the measure would see a shift
    assert (1 in factors) if output == 224 else (max(factors) > 1)


def test_operations_follow_the_crop(stored):
    data = StoredPairs(stored, 64).data
    for index in range(len(data)):
        for number in range(4):
            exact = render_view(data.decoded(index), data.view(index, number), 64).astype(int)
            fast = stored_view(data, index, data.view(index, number), 64).astype(int)
            assert np.abs(fast - exact).mean() < 6


def test_the_reduction_keeps_spare_pixels():
    assert [reduction((0, 0, side, side), 64, SPARE) for side in (64, 191, 192, 384, 768, 5000)] == [1, 1, 2, 4, 8, 8]
    assert reduction((0, 0, 1024, 192), 64, SPARE) == 2


def test_a_jpeg_is_reduced_and_others_are_not():
    data = encoded(photo(1, 101, 67), "JPEG", quality=95, subsampling=0)
    half = decode_reduced(data, 2, (101, 67))
    assert half.size == (51, 34)
    full = np.asarray(decode_rgb(data, "k"), float)[:66, :100].reshape(33, 2, 50, 2, 3).mean((1, 3))
    assert np.abs(np.asarray(half, float)[:33, :50] - full).mean() < 2
    assert decode_reduced(data, 2, (101, 68)) is None
    assert decode_reduced(encoded(photo(1, 101, 67)), 2, (101, 67)) is None
    assert decode_reduced(data[:400], 2, (101, 67)) is None
    assert decode_reduced(b"", 2, (101, 67)) is None


def test_a_box_between_pixels_is_replayed_exactly():
    image = photo(3, 300, 200)
    view = View((0.1003, 0.2002, 0.5001, 0.6003))
    assert np.array_equal(fast_view(image, view, 64, image.size), render_view(image, view, 64))


def test_drawn_boxes_are_whole_pixels_of_their_image():
    rng = np.random.default_rng(0)
    for width, height in ((640, 481), (3, 1000), (1, 1)):
        for _ in range(20):
            left, top, w, h = draw_view("mobileclip", width, height, rng).box
            pixels = np.array([left * width, top * height, w * width, h * height])
            assert np.abs(pixels - pixels.round()).max() < 1e-3
            assert pixels[2:].min() > 0.9


def test_the_loader_reads_fast_when_asked(stored):
    exact, fast = StoredPairs(stored, 64), StoredPairs(stored, 64, replay="fast")
    a, b = (pairs.pair(0, np.random.default_rng(5)) for pairs in (exact, fast))
    assert a.texts == b.texts
    assert a.image.shape == b.image.shape == (64, 64, 3)
    assert not np.array_equal(a.image, b.image)
    assert np.array_equal(a.teacher_image["alpha"], b.teacher_image["alpha"])

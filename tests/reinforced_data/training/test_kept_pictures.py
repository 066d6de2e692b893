"""What a training process keeps decoded: the same pixels as without, decoded once, within a budget."""

import pickle

import numpy as np
import pytest

from reinforced_data.pixels import picture as pictures
from reinforced_data.pixels.picture import Picture
from reinforced_data.pixels.views import draw_view
from reinforced_data.training import kept_pictures
from reinforced_data.training.kept_pictures import KeptPictures
from tests.reinforced_data.pixels.test_picture import jpeg, photo


@pytest.fixture
def decoded(monkeypatch):
    """The factors at which JPEGs were decoded."""
    factors, real = [], pictures.decode_jpeg
    monkeypatch.setattr(
        pictures,
        "decode_jpeg",
        lambda data, header, factor, **rest: (factors.append(factor), real(data, header, factor, **rest))[1],
    )
    return factors


@pytest.mark.parametrize("rendering", ["turbo", "pillow"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_held_picture_renders_the_same_pixels_and_decodes_each_size_once(rendering, whole, decoded):
    draws = np.random.default_rng(0)
    for orientation in (1, 6):
        data = jpeg(photo(0, 1000, 700), orientation=orientation)
        held = Picture(data, "k", rendering, whole=whole)
        held.hold()
        fresh = []
        for _ in range(12):
            view = draw_view("mobileclip", *held.size, draws, rendering)
            before = len(decoded)
            expected = Picture(data, "k", rendering, whole=whole).render(view, 64)
            del decoded[before:]
            fresh.append((held.render(view, 64), expected))
        assert all((ours == theirs).all() for ours, theirs in fresh)
        assert len(decoded) == len({*decoded}) == (0 if rendering == "pillow" else len(held._held))
        assert held.held_bytes > len(data) + 64 * 64 * 3
        del decoded[:]


def test_a_small_set_is_kept_and_a_large_one_is_not():
    data = jpeg(photo(1, 500, 375))
    few, many = KeptPictures(100, 224), KeptPictures(100_000, 224)
    assert few.keep(0, Picture(data, "k", "turbo"))
    assert few.get(0) is not None
    assert not many.keep(0, Picture(data, "k", "turbo"))
    assert many.get(0) is None
    copy = pickle.loads(pickle.dumps(few))
    assert copy.get(0) is None
    assert copy.keep(0, Picture(data, "k", "turbo"))


def test_no_more_is_kept_than_the_budget_holds(monkeypatch):
    data = jpeg(photo(2, 500, 375))
    one = 500 * 375 * 3 + len(data)
    monkeypatch.setattr(kept_pictures, "HELD_BYTES", 5 * one + 1000)
    kept, draws = KeptPictures(8, 224), np.random.default_rng(0)
    for turn in range(40):
        index = turn % 8
        picture = kept.get(index)
        if picture is None:
            picture = Picture(data, "k", "turbo")
            kept.keep(index, picture)
        picture.render(draw_view("light", 500, 375, draws, "turbo"), 224)
        kept.settle(index)
        assert sum(kept._pictures[n].held_bytes for n in kept._pictures) == kept._held_bytes <= 5 * one + 1000
    assert [*kept._pictures] == [0, 1, 2, 3, 4]


def test_small_pictures_have_a_budget_of_their_own(monkeypatch):
    monkeypatch.setattr(kept_pictures, "HELD_BYTES", 0)
    monkeypatch.setattr(kept_pictures, "SMALL_BYTES", 2 * 64 * 64 * 4)
    kept = KeptPictures(1_000_000, 64)
    data = jpeg(photo(3, 64, 64))
    assert [kept.keep(index, Picture(data, "k", "turbo")) for index in range(3)] == [True, True, False]
    kept.settle(0)
    assert kept.get(0) is not None

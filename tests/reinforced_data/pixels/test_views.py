import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core.errors import UsageError
from distill.core.torch_compat import ensure_torchvision
from reinforced_data.pixels.views import VIEW_PRESETS, draw_view, render_view
from reinforced_data.sample import View
from tests.reinforced_data.stubs import picture

# Our operation -> torchvision's, with magnitudes to try; translations are fractions here and pixels there.
PUBLISHED = {
    "identity": ("Identity", (0.0,)),
    "shear_x": ("ShearX", (0.09, -0.3)),
    "shear_y": ("ShearY", (0.09, -0.3)),
    "translate_x": ("TranslateX", (0.136, -0.3)),
    "translate_y": ("TranslateY", (0.136, -0.3)),
    "rotate": ("Rotate", (9.0, -30.0)),
    "brightness": ("Brightness", (0.27, -0.27)),
    "color": ("Color", (0.27, -0.27)),
    "contrast": ("Contrast", (0.27, -0.27)),
    "sharpness": ("Sharpness", (0.27, -0.27)),
    "posterize": ("Posterize", (7.0, 4.0)),
    "solarize": ("Solarize", (178.5, 20.0)),
    "autocontrast": ("AutoContrast", (0.0,)),
    "equalize": ("Equalize", (0.0,)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_operations_are_torchvisions(name):
    ensure_torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    image = picture(0, 64, 64)
    theirs, magnitudes = PUBLISHED[name]
    for magnitude in magnitudes:
        there = magnitude * 64 if name.startswith("translate") else magnitude
        expected = np.asarray(_apply_op(image, theirs, there, InterpolationMode.NEAREST, None))
        assert (render_view(image, View(ops=((name, magnitude),)), 64) == expected).all()


def test_magnitudes_are_bin_9_of_randaugment():
    ensure_torchvision()
    from torchvision.transforms.autoaugment import RandAugment

    space = RandAugment()._augmentation_space(31, (1000, 1000))
    rng = np.random.default_rng(0)
    drawn = {}
    for _ in range(500):
        for name, magnitude in draw_view("mobileclip", 50, 40, rng).ops:
            drawn.setdefault(name, set()).add(magnitude)
    assert set(drawn) == set(PUBLISHED)
    for name, magnitudes in drawn.items():
        values, signed = space[PUBLISHED[name][0]]
        expected = float(values[9]) if values.ndim else 0.0
        if name.startswith("translate"):
            expected /= 1000
        assert [abs(magnitude) for magnitude in magnitudes] == pytest.approx([expected] * len(magnitudes), rel=1e-5)
        assert len(magnitudes) == (2 if signed else 1)


@given(
    preset=st.sampled_from(sorted(VIEW_PRESETS)),
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60)
def test_any_view_of_any_image_stays_inside_and_replays_after_storing(preset, width, height, seed):
    view = draw_view(preset, width, height, np.random.default_rng(seed))
    left, top, w, h = view.box
    assert left >= 0
    assert top >= 0
    assert left + w <= 1 + 1e-7
    assert top + h <= 1 + 1e-7
    image = picture(1, width, height)
    again = View(
        box=tuple(float(np.float32(value)) for value in view.box),
        ops=tuple((name, float(np.float32(magnitude))) for name, magnitude in view.ops),
    )
    assert again == view  # every number of a drawn view is a float32
    first = render_view(image, view, 12)
    assert first.shape == (12, 12, 3)
    assert first.dtype == np.uint8
    assert (render_view(image, again, 12) == first).all()


def test_crops_have_the_published_area_and_shape():
    rng = np.random.default_rng(1)
    areas, shapes = [], []
    for _ in range(2000):
        _, _, w, h = draw_view("mobileclip", 300, 300, rng).box
        areas.append(w * h)
        shapes.append(w / h)
    assert min(areas) >= 0.08 - 0.002  # whole pixels of 300
    assert max(areas) <= 1 + 1e-9
    # Uniform in [0.08, 1] but for large crops of extreme shape, which do not fit and are drawn again.
    assert 0.48 < np.mean(areas) < 0.54
    assert min(shapes) >= 3 / 4 - 0.01
    assert max(shapes) <= 4 / 3 + 0.02
    light = [draw_view("light", 300, 300, rng) for _ in range(300)]
    assert min(view.box[2] * view.box[3] for view in light) >= 0.6 - 0.004
    assert not any(view.ops for view in light)


def test_a_resized_copy_replays_the_same_region():
    big = picture(2, 400, 300)
    small = big.resize((200, 150))
    rng = np.random.default_rng(2)
    for _ in range(20):
        view = draw_view("light", 400, 300, rng)
        difference = np.abs(render_view(big, view, 32).astype(int) - render_view(small, view, 32))
        assert difference.mean() < 1.5


def test_translations_scale_with_the_output():
    image = picture(3, 64, 64)
    view = View(ops=(("translate_x", 0.25),))
    for size in (16, 32, 64):
        rendered = render_view(image, view, size)
        assert (rendered[:, : size // 4] == 0).all()
        assert (rendered[:, size // 4 :] == render_view(image, View(), size)[:, : -size // 4]).all()


def test_unknown_names():
    with pytest.raises(UsageError, match="mobileclip"):
        draw_view("mobilclip", 10, 10, np.random.default_rng(0))
    with pytest.raises(UsageError, match="rotate"):
        render_view(picture(0), View(ops=(("rotat", 1.0),)), 8)

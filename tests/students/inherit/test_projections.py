"""Projections in closed form against numpy's least squares, and their place in open_clip's towers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.core.clip.model import build_clip
from distill.core.errors import UsageError
from students.inherit.projections.place import projection_of
from students.inherit.projections.ridge import Moments, RidgeRegression, shared_space

VIT = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 32}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1}
FORMS: dict[str, dict[str, Any]] = {
    "open_clip": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT},
    "ResNet": {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 2}, "text_cfg": TEXT},
    "custom text": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": {**TEXT, "proj_bias": True}, "custom_text": True},
    "timm head": {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_proj": "linear", "timm_proj_bias": True, "image_size": 64},
        "text_cfg": TEXT,
    },
    "timm classifier": {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": None, "image_size": 64},
        "text_cfg": TEXT,
    },
}  # fmt: skip


def _augmented(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression as an ordinary least-squares problem with made-up rows, solved by numpy."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    added = np.sqrt(penalty * (centred**2).sum(0).mean()) * np.eye(x.shape[1])
    rows = np.concatenate([centred, added])
    targets = np.concatenate([y - mean_y, np.zeros((x.shape[1], y.shape[1]))])
    weight = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return weight, mean_y - mean_x @ weight


@pytest.mark.parametrize("penalty", [1e-3, 0.3])
def test_the_map_is_that_of_least_squares(penalty: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 7)) + 3, rng.normal(size=(60, 4))
    moments = Moments(7, 4)
    for part in (slice(0, 13), slice(13, 60)):
        moments.add(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    weight, offset = moments.solve(penalty)
    expected, shift = _augmented(x, y, penalty)
    assert np.allclose(weight, expected, atol=1e-10)
    assert np.allclose(offset, shift, atol=1e-10)
    assert moments.error(weight, offset) == pytest.approx(float(((x @ expected + shift - y) ** 2).sum()))


def test_held_out_samples_choose_the_penalty() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(40, 3, generator=rng)
    strong, weak = RidgeRegression(40, 3), RidgeRegression(40, 3)
    for _ in range(6):
        x = torch.randn(16, 40, generator=rng)
        strong.add(x, x @ truth + 2)
        weak.add(x, x @ truth * 0.05 + 2 + torch.randn(16, 3, generator=rng))
    exact, noisy = strong.fit(), weak.fit()
    assert exact.penalty < noisy.penalty
    assert exact.explained > 0.999
    assert noisy.explained < 0.5
    assert torch.allclose(exact.weight.T, truth, atol=1e-2)
    assert torch.allclose(exact.offset, torch.full((3,), 2.0), atol=1e-2)
    assert exact.samples == 96


def test_too_few_samples_are_said() -> None:
    few = RidgeRegression(2, 2)
    few.add(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="3 samples"):
        few.fit()


def test_targets_that_are_all_the_same_have_nothing_to_explain() -> None:
    """Captions that all say "a photo" ended in a division by zero, in the middle of a run."""
    same = RidgeRegression(5, 3)
    rng = torch.Generator().manual_seed(4)
    features, target = torch.randn(40, 5, generator=rng), torch.tensor([[0.6, 0.0, 0.8]]).repeat(40, 1)
    same.add(features, target)
    fit = same.fit()
    assert fit.explained == 0.0
    assert torch.allclose(features @ fit.weight.T + fit.offset, target, atol=1e-5)


@pytest.mark.parametrize("width", [4, 6, 9])
def test_the_shared_space_keeps_what_it_can_of_the_mean_similarity(width: int) -> None:
    """The mean of the teachers' similarities is a Gram matrix; a basis of it cut to fewer axes is its best low-rank form."""
    rng = torch.Generator().manual_seed(1)
    teachers = {
        name: nn.functional.normalize(torch.randn(50, d, generator=rng), dim=1) for name, d in (("a", 4), ("b", 2))
    }
    basis = shared_space(list(teachers.values()), width)
    joined = torch.cat([teachers["a"], teachers["b"]], 1) / 2**0.5
    similar = (teachers["a"] @ teachers["a"].T + teachers["b"] @ teachers["b"].T) / 2
    kept = joined @ basis
    values = torch.linalg.eigvalsh(similar.double()).flip(0)
    assert kept.shape == (50, width)
    assert float((kept @ kept.T - similar).norm()) == pytest.approx(float(values[width:6].norm()), abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_map_is_set_where_it_is(form: str, tower: str) -> None:
    clip: Any = build_clip(FORMS[form], seed=0).eval()
    place = projection_of(clip, tower)
    features, width = place.shape
    rng = torch.Generator().manual_seed(2)
    size = FORMS[form]["vision_cfg"]["image_size"]
    given = (
        torch.rand(3, 3, size, size, generator=rng)
        if tower == "visual"
        else torch.randint(1, 64, (3, 8), generator=rng)
    )
    encode = clip.encode_image if tower == "visual" else clip.encode_text
    with torch.no_grad():
        with place.left_out():
            inside = encode(given)
        assert inside.shape == (3, features)
        weight, offset = torch.randn(width, features, generator=rng), torch.randn(width, generator=rng)
        place.set(weight, offset)
        assert torch.allclose(encode(given), inside @ weight.T + offset, atol=2e-5)


def test_a_map_without_an_offset_is_fitted_through_zero() -> None:
    vision = {"timm_model_name": "test_efficientnet", "timm_proj": "linear", "image_size": 64}
    place = projection_of(build_clip({**FORMS["open_clip"], "vision_cfg": vision}, seed=0), "visual")
    assert not place.takes_offset
    with pytest.raises(ValueError, match="no place"):
        place.set(torch.zeros(16, place.shape[0]), torch.ones(16))
    wide = projection_of(build_clip({**FORMS["open_clip"], "embed_dim": 80}, seed=0), "text")
    assert not wide.takes_offset  # 64 features cannot give every offset in 80 dimensions
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 7)) + 3, rng.normal(size=(60, 4)) + 1
    moments = Moments(7, 4, offset=False)
    moments.add(torch.from_numpy(x), torch.from_numpy(y))
    weight, offset = moments.solve(0.0)
    assert np.allclose(weight, np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-10)
    assert not offset.any()


def test_a_map_of_few_samples_leaves_the_norm_layer_as_it_was() -> None:
    """A hundred captions for a map 256 wide gave a LayerNorm a bias of 7e7: no export, and features rounded away."""
    clip: Any = build_clip(FORMS["open_clip"], seed=0).eval()
    place = projection_of(clip, "text")
    (features, width), rng = place.shape, torch.Generator().manual_seed(3)
    tokens, targets = torch.randint(1, 64, (16, 8), generator=rng), torch.randn(16, width, generator=rng) + 2
    with torch.no_grad(), place.left_out():
        inside = clip.encode_text(tokens)
    regression = RidgeRegression(features, width, offset=place.takes_offset)
    regression.add(inside, targets)
    fit = regression.fit()
    assert place.takes_offset
    assert not place.holds(fit.weight, fit.offset)
    before = clip.ln_final.bias.detach().clone()
    fit = regression.through_zero().fit()
    assert place.holds(fit.weight, fit.offset)
    place.set(fit.weight, fit.offset)
    assert torch.equal(clip.ln_final.bias, before)
    x, y = inside.double().numpy(), targets.double().numpy()
    added = np.sqrt(fit.penalty * (x**2).sum(0).mean()) * np.eye(features)
    rows, goal = np.concatenate([x, added]), np.concatenate([y, np.zeros((features, width))])
    expected = np.linalg.lstsq(rows, goal, rcond=None)[0]
    with torch.no_grad():
        assert np.allclose(clip.encode_text(tokens).numpy(), x @ expected, atol=1e-3)


def test_a_tower_without_one_linear_map_is_said() -> None:
    cfg = {**FORMS["timm head"], "vision_cfg": {**FORMS["timm head"]["vision_cfg"], "timm_proj": "mlp"}}
    with pytest.raises(UsageError, match="image tower does not end in one linear map"):
        projection_of(build_clip(cfg, seed=0), "visual")

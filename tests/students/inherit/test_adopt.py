"""A tower of the same architecture is taken over whole: the student's features are the source's, to the bit."""

from typing import Any

import pytest
import torch

from distill.core.clip.model import build_clip
from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.towers.adopt import adopt_tower

TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1}


def _cfg(tower: str, width: int, **words: Any) -> dict[str, Any]:
    vision = {"timm_model_name": tower, "timm_proj": "linear", "timm_pool": "", "image_size": 64, **words}
    return {"embed_dim": width, "vision_cfg": vision, "text_cfg": TEXT}


def _weights(cfg: dict[str, Any]) -> ClipWeights:
    model = build_clip(cfg, seed=1)
    for name, value in model.named_buffers():  # a trained tower's statistics are not those of a new one
        if value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    return ClipWeights("big", cfg, dict(model.state_dict()), "abc")


@pytest.mark.parametrize(("width", "projected"), [(16, True), (24, False)])
def test_features_are_the_sources_own(width: int, projected: bool) -> None:
    source = _weights(_cfg("test_efficientnet.r160_in1k", 16))
    cfg = _cfg("test_efficientnet", width)
    student: Any = build_clip(cfg, seed=2)
    before = student.visual.head.proj.weight.detach().clone()
    taken = adopt_tower(student, cfg, source, "visual")
    student.load_state_dict(taken, strict=False)
    teacher: Any = build_clip(source.model_cfg, seed=3)
    teacher.load_state_dict(source.state)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(student.eval().visual.trunk(pixels), teacher.eval().visual.trunk(pixels))
    assert ("visual.head.proj.weight" in taken) == projected
    assert torch.equal(student.visual.head.proj.weight, before) != projected
    assert not any(name.startswith("transformer") for name in taken)


@pytest.mark.parametrize(
    ("tower", "said"),
    [
        ("test_resnet", "test_efficientnet in the source, test_resnet here"),
        (None, "test_efficientnet in the source, of open_clip itself here"),
    ],
)
def test_another_architecture_is_said(tower: str | None, said: str) -> None:
    cfg = (
        _cfg(tower, 16)
        if tower
        else {**_cfg("x", 16), "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1}}
    )
    with pytest.raises(UsageError, match=said):
        adopt_tower(build_clip(cfg, seed=0), cfg, _weights(_cfg("test_efficientnet", 16)), "visual")


def test_a_tensor_that_does_not_fit_is_named() -> None:
    source = _weights(_cfg("test_efficientnet", 16))
    del source.state["visual.trunk.conv_stem.weight"]
    cfg = _cfg("test_efficientnet", 16)
    with pytest.raises(UsageError, match=r"visual.trunk.conv_stem.weight does not fit: the source lacks it"):
        adopt_tower(build_clip(cfg, seed=0), cfg, source, "visual")


def test_half_a_projection_is_none() -> None:
    source, cfg = _weights(_cfg("test_efficientnet", 16)), _cfg("test_efficientnet", 16, timm_proj_bias=True)
    taken = adopt_tower(build_clip(cfg, seed=0), cfg, source, "visual")
    assert not any(".proj." in name for name in taken)

"""Every spec of the zoo against open_clip's own tables, and the counts against open_clip's published ones."""

import subprocess
import sys
from typing import Any

import pytest

from teachers.open_clip_model import build_clip
from teachers.open_clip_teacher import model_config, split_source
from teachers.spec import TEACHERS, TeacherSpec

SPECS = [spec for _, spec in TEACHERS.items()]
OPEN_CLIP = [spec for spec in SPECS if spec.loader == "open_clip"]
# open_clip docs/model_profile.csv and docs/openclip_results.csv, millions of parameters.
PUBLISHED_PARAMS = {
    "dfn-vitl14": 427.62,
    "dfn-vith14-378": 986.71,
    "openai-vitl14-336": 427.94,
    "siglip-b16": 203.16,
    "siglip-so400m": 877.36,
    "eva02-l14": 427.76,
    "coca-vitl14": 638.45,
}


def test_listing_the_zoo_imports_no_torch() -> None:
    code = (
        "import sys; from teachers.spec import TEACHERS; assert len(TEACHERS) > 20; "
        "assert not {'torch', 'numpy', 'open_clip', 'timm', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_the_promised_names_are_there() -> None:
    promised = """dfn-vitl14 dfn-vitl14-39b dfn-vith14 dfn-vith14-378 openai-vitb32 openai-vitb16 openai-vitl14
    openai-vitl14-336 datacomp-vitb16 datacomp-vitl14 laion-vitb32 laion-vith14 metaclip-vitb16 metaclip-vitl14
    metaclip-vith14 siglip-b16 siglip-so400m siglip2-b16 siglip2-so400m eva02-l14 eva02-e14plus vitamin-l vitamin-xl
    mobileclip2-s4 coca-vitl14 rendered sail-lite0-minilm"""
    assert set(promised.split()) <= set(TEACHERS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_facts_are_complete(spec: TeacherSpec) -> None:
    assert TEACHERS.get(spec.name) is spec
    assert spec.licence
    assert spec.logit_scale is None or 1 < spec.logit_scale <= 100
    assert spec.imagenet_top1 is None or 50 < spec.imagenet_top1 < 90
    assert not (spec.commercial and ("NC" in spec.licence or "apple" in spec.licence.lower()))
    assert not spec.hub.startswith("apple/") or not spec.commercial


@pytest.mark.parametrize("spec", OPEN_CLIP, ids=lambda spec: spec.name)
def test_facts_agree_with_open_clip(spec: TeacherSpec, open_clip: Any) -> None:
    model, tag, path = split_source(spec.source)
    assert path is None
    entry = open_clip.pretrained.get_pretrained_cfg(model, tag)
    config = open_clip.get_model_config(model)
    repo, _, file = entry["hf_hub"].rpartition("/")
    default = (open_clip.constants.HF_WEIGHTS_NAME, open_clip.constants.HF_SAFE_WEIGHTS_NAME)
    assert spec.hub == repo
    assert spec.file == file if file else spec.file in default
    assert spec.width == config["embed_dim"]
    assert spec.image_size == config["vision_cfg"]["image_size"]
    assert spec.kind == ("sigmoid" if config.get("init_logit_bias") is not None else "softmax")
    # Weights trained with QuickGELU in a model without it lose several points of accuracy, silently.
    assert bool(entry.get("quick_gelu")) == bool(config.get("quick_gelu"))


def test_the_two_logit_scales_of_mobileclip2() -> None:
    assert TEACHERS.get("dfn-vitl14").logit_scale == 70
    assert TEACHERS.get("dfn-vitl14-39b").logit_scale == 60


@pytest.mark.parametrize("name", sorted(PUBLISHED_PARAMS))
def test_counts_and_widths_of_the_built_model(name: str, open_clip: Any) -> None:
    """Built on the meta device, where nothing is allocated; the width is that of a real forward pass there."""
    import torch

    spec = TEACHERS.get(name)
    model: Any = build_clip(model_config(split_source(spec.source)[0]), device="meta").eval()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED_PARAMS[name], abs=0.006)
    image = torch.empty(2, 3, spec.image_size, spec.image_size, device="meta")
    assert model.encode_image(image).shape == (2, spec.width)

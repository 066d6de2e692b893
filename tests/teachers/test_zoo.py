"""Every spec of the zoo against open_clip's own tables, and the counts against open_clip's published ones."""

import functools
import subprocess
import sys
from typing import Any

import pytest

from distill.core.clip.model import build_clip
from teachers.open_clip.names import model_config, split_source
from teachers.spec import TEACHERS, TeacherSpec

SPECS = [spec for _, spec in TEACHERS.items()]
OPEN_CLIP = [spec for spec in SPECS if spec.loader == "open_clip"]
# Millions of parameters (whole model, image tower), as printed by others. Counted here to the printed digit.
# - open_clip docs/model_profile.csv (commit f862f86), columns mparams and image_mparams: all without a remark.
# - ViTamin: README of Beckschen/ViTamin, "trainable params Image+Text": 333.3 + 123.7 and 436.1 + 488.7.
# - MobileCLIP2-S4: 321.8 + 123.6 (reference/mobileclip.md 1.3; arXiv:2508.20691 prints 321.6 after folding its blocks).
# - SigLIP 2: "the only difference is the vocab size (256k)" (big_vision README_siglip2.md), so SigLIP's own counts plus
#   224,000 more rows of the token table of width 768 or 1152; the So400m/14 also reads 64 tokens instead of 16. Its file
#   on the Hub has 4.54 GB at 4 bytes per parameter.
PUBLISHED_PARAMS: dict[str, tuple[str, str]] = {
    "dfn-vitl14": ("427.62", "303.97"),
    "dfn-vitl14-39b": ("427.62", "303.97"),
    "dfn-vith14": ("986.11", "632.08"),
    "dfn-vith14-378": ("986.71", "632.68"),
    "openai-vitb32": ("151.28", "87.85"),
    "openai-vitb16": ("149.62", "86.19"),
    "openai-vitl14": ("427.62", "303.97"),
    "openai-vitl14-336": ("427.94", "304.29"),
    "datacomp-vitb16": ("149.62", "86.19"),
    "datacomp-vitl14": ("427.62", "303.97"),
    "laion-vitb32": ("151.28", "87.85"),
    "laion-vith14": ("986.11", "632.08"),
    "metaclip-vitb16": ("149.62", "86.19"),
    "metaclip-vitl14": ("427.62", "303.97"),
    "metaclip-vith14": ("986.11", "632.08"),
    "siglip-b16": ("203.16", "92.88"),
    "siglip-so400m": ("877.36", "427.68"),
    "siglip2-b16": (f"{203.16 + 224_000 * 768 / 1e6:.2f}", "92.88"),
    "siglip2-so400m": (f"{877.36 + (224_000 + 48) * 1152 / 1e6:.2f}", "427.68"),
    "eva02-l14": ("427.76", "304.11"),
    "eva02-e14plus": ("5044.89", "4350.56"),
    "vitamin-l": ("457.0", "333.3"),
    "vitamin-xl": ("924.8", "436.1"),
    "mobileclip2-s4": ("445.4", "321.8"),
    "coca-vitl14": ("638.45", "306.72"),
}
# MobileCLIP2, arXiv:2508.20691, Table 3: the scale that made the best student. Flat within 5 either way.
PUBLISHED_SCALES = {
    "datacomp-vitl14": 50,
    "dfn-vitl14": 70,
    "dfn-vith14": 90,
    "dfn-vith14-378": 55,
    "dfn-vitl14-39b": 60,
}


@pytest.mark.process
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


def test_published_logit_scales_and_no_others() -> None:
    assert {spec.name: spec.logit_scale for spec in SPECS if spec.logit_scale is not None} == PUBLISHED_SCALES


def test_every_published_figure_is_there() -> None:
    """Nobody has published one of the teachers that this project trains."""
    assert [spec.name for spec in SPECS if spec.imagenet_top1 is None] == ["rendered", "sail-lite0-minilm"]


def test_every_architecture_is_in_the_table() -> None:
    assert set(PUBLISHED_PARAMS) == {spec.name for spec in OPEN_CLIP}
    assert float(PUBLISHED_PARAMS["siglip2-so400m"][0]) * 4 == pytest.approx(4540, abs=5)  # megabytes on the Hub


def to_the_printed_digit(count: int, printed: str) -> bool:
    """Whether `count` parameters, in millions, are `printed`."""
    decimals = len(printed.partition(".")[2])
    return abs(count / 1e6 - float(printed)) <= 0.51 * 10**-decimals


@functools.cache
def built(model_name: str) -> tuple[int, int, int, int]:
    """Parameters in all and of the image tower, and the widths that a forward pass of each tower gives.

    Built on the meta device, where nothing is allocated. Several specs share an architecture, hence the cache.
    """
    import torch

    config = model_config(model_name)
    model: Any = build_clip(config, seed=0, device="meta").eval()
    assert all(parameter.is_meta for parameter in model.parameters())
    size = config["vision_cfg"]["image_size"]
    image = model.encode_image(torch.empty(2, 3, size, size, device="meta"))
    length = config["text_cfg"].get("context_length", 77)
    text = model.encode_text(torch.zeros(2, length, dtype=torch.long, device="meta"))
    assert len(image) == len(text) == 2
    whole, tower = (sum(p.numel() for p in part.parameters()) for part in (model, model.visual))
    return whole, tower, image.shape[1], text.shape[1]


@pytest.mark.parametrize("name", sorted(PUBLISHED_PARAMS))
def test_counts_and_widths_of_the_built_model(name: str) -> None:
    spec = TEACHERS.get(name)
    whole, tower, *widths = built(split_source(spec.source)[0])
    assert to_the_printed_digit(whole, PUBLISHED_PARAMS[name][0])
    assert to_the_printed_digit(tower, PUBLISHED_PARAMS[name][1])
    assert widths == [spec.width, spec.width]

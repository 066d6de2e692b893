"""Deployable towers against the student they come from, and against open_clip's own pooling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.core.errors import DistillError
from export.towers.rewrite import unit_length
from export.towers.text import MASKED, TextTower
from export.towers.tower import check_towers, deployable_towers
from students.student import Student, load_student

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "causal": {},
    "not causal, text apart": {"text": {"no_causal_mask": True}, "custom_text": True},
    "quick gelu": {"quick_gelu": True},
    "average pool, layer scale": {"vision": {"pool_type": "avg", "ls_init_value": 0.3}, "text": {"ls_init_value": 0.5}},
    "norm after pool": {"vision": {"final_ln_after_pool": True}},
    "projection with bias": {"text": {"proj_bias": True}},
    "text pooled at the end, whatever stands there (SigLIP)": {
        "text": {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
        "custom_text": True,
    },
    "text pooled at the first": {"text": {"pool_type": "first", "no_causal_mask": True}, "custom_text": True},
    "text pooled at a named end token": {"text": {"pool_type": "eos", "eos_id": 49407}, "custom_text": True},
    "class token (CoCa, as published)": {"text": {"embed_cls": True}, "custom_text": True},
    "attentional pooling of images": {
        "vision": {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "pool_type": "avg"},
    },
    "custom attention": {
        "text": {"block_type": "custom", "qk_norm": True},
        "vision": {"block_type": "custom", "scale_fc": True},
    },
    "resnet with an attention pool": {"vision": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32}},
    "sigmoid, mapped pool (SigLIP)": {
        "vision": {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
        "embed_dim": 64,
        "init_logit_bias": -10,
        "init_logit_scale": 2.3,
        "custom_text": True,
        "text": {"pool_type": "last"},
    },
    "timm vit of any image size, rotary (DINOv3)": {
        "vision": {"timm_model_name": "vit_tiny_patch16_dinov3_qkvb", "timm_pool": "avg", "image_size": 64},
    },
    "timm vit": {"vision": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None, "image_size": 160}},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_towers_equal_the_student(
    name: str, make_student: Callable[..., Student], pixels: np.ndarray, tokens: np.ndarray
) -> None:
    student = make_student(**ARCHITECTURES[name])
    before = {key: value.clone() for key, value in student.state_dict().items()}
    student.train()
    image, text = deployable_towers(student)
    pixel_tensor = torch.from_numpy(pixels[:3])
    pixel_tensor = nn.functional.interpolate(pixel_tensor, (student.image_size,) * 2)
    assert check_towers(student, image, text, pixel_tensor, torch.from_numpy(tokens)) < 1e-5
    assert student.training  # untouched, mode included
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    for module in (*image.modules(), *text.modules()):
        assert not isinstance(module, nn.MultiheadAttention | nn.BatchNorm2d)
        assert not getattr(module, "fused_attn", False)
        assert not module.training
    assert not any(p.requires_grad for tower in (image, text) for p in tower.parameters())


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("timm vit")])
def test_a_vit_of_any_image_size_is_exported_for_one(name: str, make_student: Callable[..., Student]) -> None:
    """timm resizes position embeddings bicubically at every call, and while it exports those of the right size too."""
    student = make_student(**ARCHITECTURES[name])
    assert student.clip.visual.trunk.dynamic_img_size
    image, _ = deployable_towers(student)
    program = torch.export.export(image, (torch.rand(1, 3, student.image_size, student.image_size),))
    targets = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in targets if any(word in name for word in ("upsample", "interpolate", "cos.", "sin."))]


def test_fastvit_is_reparameterized(fastvit: Student) -> None:
    student = fastvit
    image, text = deployable_towers(student)
    tokens = student.tokenize(["a boat", "two boats"]).int()
    # Smooth pictures, as its statistics are of: what noise gives hangs on the order of sums.
    coarse = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(5))
    pixels = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
    assert check_towers(student, image, text, pixels, tokens) < 2e-5
    assert not any(isinstance(m, nn.BatchNorm2d) for m in image.modules())
    trained = sum(p.numel() for p in student.clip.visual.parameters())
    deployed = sum(p.numel() for p in image.parameters()) + sum(b.numel() for b in image.buffers())
    assert deployed < trained
    blocks = [m for m in image.modules() if type(m).__name__ == "MobileOneBlock"]
    assert blocks
    assert all(block.reparam_conv is not None for block in blocks)


@pytest.mark.parametrize("causal", [True, False])
def test_masked_padding(causal: bool, make_student: Callable[..., Student], tokens: np.ndarray) -> None:
    """No configuration word of open_clip reaches this attribute, but its towers have it."""
    student = make_student(text={"no_causal_mask": not causal, "pool_type": "first"}, custom_text=True)
    _, unmasked = deployable_towers(student)
    student.clip.text.use_pad_mask = True
    image, text = deployable_towers(student)
    ids = torch.from_numpy(tokens)
    assert check_towers(student, image, text, torch.rand(1, 3, 32, 32), ids) < 1e-5
    assert (
        torch.allclose(text(ids), unmasked(ids), atol=1e-4) == causal
    )  # the first place sees nothing behind it anyhow


HF_TOWERS: dict[str, dict[str, Any]] = {
    "bert, mean": {"kind": "bert", "pooler": "mean_pooler"},
    "bert, class state": {"kind": "bert", "pooler": "cls_last_hidden_state_pooler"},
    "bert, its own pooler": {"kind": "bert", "pooler": "cls_pooler"},
    "roberta": {"kind": "roberta", "pooler": "mean_pooler"},
    "xlm-roberta": {"kind": "xlm-roberta", "pooler": "mean_pooler"},
}


@pytest.mark.parametrize("name", HF_TOWERS)
def test_hugging_face_text_towers(name: str, make_hf_text_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A folder that holds all it borrows: loaded without a hub, saved again whole, its text tower deployable."""
    student = load_student(make_hf_text_folder(tmp_path / "clip", **HF_TOWERS[name]))
    tokens = student.tokenize(["a cat", "two red dogs on a hill", ""])
    assert tokens.shape == (3, 12)
    image, text = deployable_towers(student)
    assert check_towers(student, image, text, torch.rand(2, 3, 32, 32), tokens.int()) < 1e-5
    program = torch.export.export(text, (tokens[:1].int(),))
    assert torch.allclose(program.module()(tokens[1:2].int()), student.encode_text(tokens[1:2]), atol=1e-5)
    student.save(tmp_path / "again", {})
    again = load_student(tmp_path / "again")
    assert torch.equal(again.tokenize(["two red dogs"]), student.tokenize(["two red dogs"]))
    assert torch.equal(again.encode_text(tokens), student.encode_text(tokens))


def test_a_hugging_face_tower_of_another_family_is_refused(
    make_hf_text_folder: Callable[..., Path], tmp_path: Path
) -> None:
    student = load_student(make_hf_text_folder(tmp_path / "clip", kind="bert", pooler="mean_pooler"))
    del student.clip.text.transformer.embeddings
    with pytest.raises(DistillError, match=r"BertModel \(bert\) is not of the BERT family"):
        deployable_towers(student)


def test_embeddings_have_unit_length_and_take_int32(student: Student, pixels: np.ndarray, tokens: np.ndarray) -> None:
    image, text = deployable_towers(student)
    assert tokens.dtype == np.int32
    for tower, value in ((image, pixels), (text, tokens)):
        lengths = tower(torch.from_numpy(value)).norm(dim=-1)
        assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)


def test_pooling_is_argmax_for_every_place_and_repetition_of_the_end_token(student: Student) -> None:
    _, text = deployable_towers(student)
    length, eot = student.context_length, text.pool.eot
    assert eot == 49407
    rows = []
    for place in range(1, length):
        row = torch.randint(1, eot - 1, (length,), generator=torch.Generator().manual_seed(place))
        row[place] = eot
        rows += [
            row,
            torch.cat([row[: place + 1], torch.full((length - place - 1,), eot)]),
        ]  # padded with the end token
    ids = torch.stack(rows)
    with torch.no_grad():
        expected = nn.functional.normalize(student.clip.encode_text(ids), dim=-1)
        assert torch.allclose(text(ids.int()), expected, atol=1e-5)


def test_the_mask_is_finite_and_still_masks(student: Student, tokens: np.ndarray) -> None:
    _, text = deployable_towers(student)
    assert text.mask is not None
    assert text.mask.min() == MASKED
    ids = torch.from_numpy(tokens[:1]).clone()
    end = int((ids == text.pool.eot).int().argmax())
    changed = ids.clone()
    changed[0, end + 1 :] = 7  # after the end token: a causal tower must not see it
    assert torch.equal(text(ids), text(changed))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0, 3e4])
def test_unit_length_survives_fp16(scale: float) -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).clamp(-2, 2) * scale
    expected = nn.functional.normalize(x.double(), dim=-1)
    assert (unit_length(x.half()).double() - expected).abs().max() < 2e-3
    assert (unit_length(x).double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ({"pool_type": "none"}, "pool_type 'none'"),
        ({"embed_cls": True, "block_type": "custom"}, r"resblocks\.0\.attn is open_clip's custom attention"),
    ],
)
def test_other_text_towers_are_refused(make_student: Callable[..., Student], text: dict[str, Any], word: str) -> None:
    student = make_student(text=text, custom_text=True)
    with pytest.raises(DistillError, match=word):
        deployable_towers(student)


def test_a_changed_tower_is_refused(student: Student, pixels: np.ndarray, tokens: np.ndarray) -> None:
    image, text = deployable_towers(student)
    inputs = torch.from_numpy(pixels[:2]), torch.from_numpy(tokens[:2])
    assert isinstance(text, TextTower)
    text.positions[0, 0] += 0.5
    with pytest.raises(DistillError, match="differ from the student"):
        check_towers(student, image, text, *inputs)
    text.positions[0, 0] = float("nan")
    with pytest.raises(DistillError, match="differ from the student"):
        check_towers(student, image, text, *inputs)

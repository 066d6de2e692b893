"""Every layout: a whole plan reproduces the source, across layouts too; patches and positions are resized as published."""

import copy

import pytest
import torch

from distill.core.clip.model import build_clip
from distill.core.clip.weights import ClipWeights
from students.inherit.apply import apply_plan, resize_patches
from students.inherit.planning import make_plan
from students.inherit.strategy import STRATEGIES
from students.inherit.towers.tower import find_tower, tower_of_config
from tests.students.inherit.random_models import model_of

TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 2, "layers": 2}
VISION = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
OPEN_CLIP = {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": TEXT}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
WEIGHT_STRATEGIES = [name for name in STRATEGIES if not STRATEGIES.get(name).needs_data]


def bert(folder, **changes):
    from transformers import BertConfig

    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "vocab_size": 100,
    }
    BertConfig(**{**sizes, "max_position_embeddings": 16, **changes}).save_pretrained(folder)
    return {
        "hf_model_name": str(folder),
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "context_length": 16,
    }


def configurations(tmp_path):
    scaled = {"ls_init_value": 0.1, "mlp_ratio": 2.0}
    return {
        "open_clip": OPEN_CLIP,
        "open_clip, layer scale": {**OPEN_CLIP, "vision_cfg": VISION | scaled, "text_cfg": TEXT | scaled, "custom_text": True},
        "open_clip, siglip text": {**OPEN_CLIP, "text_cfg": TEXT | {"proj_bias": True, "no_causal_mask": True, "pool_type": "last"}, "custom_text": True},
        "timm, class token": {**OPEN_CLIP, "vision_cfg": TIMM, "custom_text": True},
        "timm, attention pool": {**OPEN_CLIP, "embed_dim": 64, "vision_cfg": TIMM | {"timm_pool": "map", "timm_proj": "none"}, "custom_text": True},
        "timm, head": {**OPEN_CLIP, "vision_cfg": TIMM | {"timm_proj": None}, "custom_text": True},
        "BERT": {**OPEN_CLIP, "text_cfg": bert(tmp_path / "bert")},
        "BERT, mlp": {**OPEN_CLIP, "text_cfg": bert(tmp_path / "bert") | {"hf_proj_type": "mlp"}},
        "BERT, its pooler": {**OPEN_CLIP, "text_cfg": bert(tmp_path / "bert") | {"hf_pooler_type": "cls_pooler"}},
    }  # fmt: skip


NAMES = [
    "open_clip", "open_clip, layer scale", "open_clip, siglip text", "timm, class token", "timm, attention pool", "timm, head",
    "BERT", "BERT, mlp", "BERT, its pooler",
]  # fmt: skip


def source_of(model, cfg):
    return ClipWeights("t", cfg, model.state_dict(), "abc", "v", model=model)


def embeddings(model, size=64):
    generator = torch.Generator().manual_seed(7)
    pixels = torch.rand(3, 3, size, size, generator=generator)
    tokens = torch.randint(1, 98, (3, 16), generator=generator)
    tokens[:, 9] = 99
    tokens[:, 10:] = 0
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(tokens)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_plan_reproduces_the_source_in_every_layout(name, tmp_path):
    cfg = configurations(tmp_path)[name]
    source, size = model_of(cfg, 0), cfg["vision_cfg"]["image_size"]
    expected = embeddings(source, size)
    for strategy in WEIGHT_STRATEGIES:
        student = model_of(cfg, 1)
        plan = make_plan(source_of(source, cfg), cfg, strategy, "v")
        assert (plan.skipped, plan.across) == ({}, {})
        student.load_state_dict(apply_plan(plan, source_of(source, cfg), cfg))  # strict: nothing is left random
        for got, wanted in zip(embeddings(student, size), expected, strict=True):
            assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_gives_a_regular_smaller_tower_in_every_layout(name, tmp_path):
    cfg = copy.deepcopy(configurations(tmp_path)[name])
    source = model_of(cfg, 0)
    small = {**copy.deepcopy(cfg), "embed_dim": 32 if cfg["embed_dim"] == 48 else 64}
    if "width" in cfg["text_cfg"]:
        small["text_cfg"] |= {"width": 32, "heads": 1, "layers": 1, "context_length": 12}
    else:
        small["text_cfg"] |= bert(
            tmp_path / "small", hidden_size=32, num_attention_heads=1, intermediate_size=40, num_hidden_layers=2
        )
        small["text_cfg"] |= {key: cfg["text_cfg"][key] for key in ("hf_proj_type", "hf_pooler_type")}
    if "width" in cfg["vision_cfg"]:
        small["vision_cfg"] |= {"width": 32, "layers": 1}
    for strategy in WEIGHT_STRATEGIES:
        plan = make_plan(source_of(source, cfg), small, strategy, "v")
        assert plan.skipped == {}
        student = build_clip(small, seed=1)
        missing = student.load_state_dict(apply_plan(plan, source_of(source, cfg), small), strict=False).missing_keys
        assert all("text.proj." in name for name in missing)  # an inner width of a projection's own is not sliced
        for tower in plan.towers.values():
            assert len({len(kept) for kept in tower.heads}) == len({len(kept) for kept in tower.ffn}) == 1


def test_a_transformers_clip_becomes_an_open_clip_student():
    """The two libraries' own forward passes agree, so the names are matched right."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256}
    config = CLIPConfig(
        text_config={**shared, "vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 99},
        vision_config={**shared, "image_size": 64, "patch_size": 16},
        projection_dim=48,
    )
    torch.manual_seed(0)
    source = CLIPModel(config).eval()
    cfg = {**OPEN_CLIP, "quick_gelu": True}
    weights = ClipWeights("hf", cfg, source.state_dict(), "abc", "v", model=source)
    plan = make_plan(weights, cfg, "uniform", "v")
    assert (plan.skipped, plan.across) == ({}, {})
    student = build_clip(cfg, seed=1).eval()
    state = apply_plan(plan, weights, cfg)
    student.load_state_dict(state)
    image, text = embeddings(student)
    generator = torch.Generator().manual_seed(7)
    pixels = torch.rand(3, 3, 64, 64, generator=generator)
    tokens = torch.randint(1, 98, (3, 16), generator=generator)
    tokens[:, 9] = 99
    tokens[:, 10:] = 0
    with torch.no_grad():
        own = source.visual_projection(source.vision_model(pixels).pooler_output)
        words = source.text_projection(source.text_model(tokens).pooler_output)
    assert torch.allclose(image, own, atol=1e-5)
    assert torch.allclose(text, words, atol=1e-5)


def test_a_timm_tower_becomes_an_open_clip_one_and_its_patch_bias_is_kept():
    """timm's ViT has no norm before its blocks and a bias in its patches; blocks and patches alone give the same."""
    cfg = {**OPEN_CLIP, "vision_cfg": TIMM | {"image_size": 160}, "custom_text": True}
    source = model_of(cfg, 0)
    own = {**OPEN_CLIP, "vision_cfg": {**VISION, "image_size": 160, "layers": 6, "mlp_ratio": 3.0, "no_ln_pre": True}}
    student = model_of(own, 1)
    plan = make_plan(source_of(source, cfg), own, "magnitude", "v")
    assert plan.across == {}
    student.load_state_dict(apply_plan(plan, source_of(source, cfg), own), strict=False)
    for module in student.visual.modules():  # timm's norms add 1e-6 to the variance, open_clip's 1e-5
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    assert torch.allclose(embeddings(student, 160)[0], embeddings(source, 160)[0], atol=1e-5)


def test_layer_scale_is_folded_where_the_student_has_none():
    cfg = {**OPEN_CLIP, "vision_cfg": VISION | {"ls_init_value": 0.3}, "custom_text": True}
    source = model_of(cfg, 0)
    own = {**OPEN_CLIP, "custom_text": True}
    student = model_of(own, 1)
    plan = make_plan(source_of(source, cfg), own, "front", "v")
    student.load_state_dict(apply_plan(plan, source_of(source, cfg), own))
    assert torch.allclose(embeddings(student)[0], embeddings(source)[0], atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(16, 32), (32, 16), (16, 14)])
def test_patches_are_resized_as_timm_resizes_them(old, new):
    from timm.layers import resample_patch_embed

    weight = torch.randn(8, 3, old, old, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(resize_patches(weight, new), resample_patch_embed(weight, [new, new]), atol=1e-4)


def test_enlarged_patches_give_what_they_gave():
    weight = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    patch = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(patch, (16, 16), mode="bicubic", antialias=True)
    same = torch.nn.functional.conv2d(large, resize_patches(weight, 16))
    assert torch.allclose(same, torch.nn.functional.conv2d(patch, weight), atol=1e-4)


def test_positions_are_interpolated_as_timm_does():
    from timm.layers import resample_abs_pos_embed

    source = model_of(OPEN_CLIP, 0)
    larger = {**OPEN_CLIP, "vision_cfg": VISION | {"image_size": 96}}
    plan = make_plan(source_of(source, OPEN_CLIP), larger, "front", "v")
    assert plan.towers["visual"].positions == "interpolate"
    got = apply_plan(plan, source_of(source, OPEN_CLIP), larger)["visual.positional_embedding"]
    before = source.state_dict()["visual.positional_embedding"]
    wanted = resample_abs_pos_embed(before[None], [6, 6], num_prefix_tokens=1)[0]
    assert torch.allclose(got, wanted, atol=1e-5)


def test_wider_heads_join_narrow_ones_and_keep_the_size_of_their_products():
    """A head of 32 from two equal heads of 16: their products are the same, so their mean is, and attention is kept."""
    narrow = {**OPEN_CLIP, "vision_cfg": VISION | {"head_width": 16}}
    source = model_of(narrow, 0)
    state = source.state_dict()
    for layer in range(2):
        for part in ("weight", "bias"):
            qkv = state[f"visual.transformer.resblocks.{layer}.attn.in_proj_{part}"].view(3, 4, 16, -1)
            qkv[:2, 1::2] = qkv[:2, ::2]  # queries and keys of every second head are those of the one before it
    student = model_of(OPEN_CLIP, 1)
    plan = make_plan(source_of(source, narrow), OPEN_CLIP, "front", "v")
    assert plan.towers["visual"].heads == [[0, 1, 2, 3]] * 2
    student.load_state_dict(apply_plan(plan, source_of(source, narrow), OPEN_CLIP))
    assert torch.allclose(embeddings(student)[0], embeddings(source)[0], atol=1e-5)


def test_narrower_heads_keep_the_channels_that_matter():
    """Half of each head's channels are zero in the source: a head half as wide without them gives the same."""
    source = model_of(OPEN_CLIP, 0)
    state = source.state_dict()
    for layer in range(2):
        block = f"visual.transformer.resblocks.{layer}.attn."
        for part in ("in_proj_weight", "in_proj_bias"):
            state[block + part].view(3, 2, 32, -1)[:, :, ::2] = 0
        state[block + "out_proj.weight"].view(64, 2, 32)[:, :, ::2] = 0
    plan = make_plan(
        source_of(source, OPEN_CLIP),
        {**OPEN_CLIP, "vision_cfg": VISION | {"head_width": 16, "width": 32}},
        "magnitude",
        "v",
    )
    assert plan.towers["visual"].channels == [[list(range(1, 32, 2))] * 2] * 2


def test_a_tower_that_begins_with_convolutions_or_gates_its_mlp_is_refused_with_the_reason():
    for name, word in (
        ("vitamin_small_224", "not sliced here"),
        ("eva02_tiny_patch14_224", "not sliced here"),
        ("fastvit_t8", "plain transformer"),
    ):
        cfg = {
            **OPEN_CLIP,
            "vision_cfg": {"timm_model_name": name, "timm_pool": "avg", "image_size": 224},
            "custom_text": True,
        }
        plan = make_plan(source_of(build_clip(cfg, seed=0, device="meta"), cfg), OPEN_CLIP, "front", "v")
        assert word in plan.skipped["visual"]


def test_a_text_tower_that_normalises_behind_its_parts_makes_none_that_does_before(tmp_path):
    cfg = configurations(tmp_path)["BERT"]
    plan = make_plan(source_of(model_of(cfg, 0), cfg), OPEN_CLIP, "front", "v")
    assert "normalise behind" in plan.skipped["text"]


def test_sizes_are_read_from_the_tensors():
    tower = tower_of_config({**OPEN_CLIP, "vision_cfg": VISION | {"mlp_ratio": 2.5}}, "visual")
    assert (tower.layers, tower.width, tower.heads, tower.head_width, tower.ffn) == (2, 64, 2, 32, 160)
    assert (tower.positions, tower.extra, tower.patch, tower.embed) == (17, 1, 16, 48)
    model = model_of(OPEN_CLIP, 0)
    assert find_tower(model.state_dict(), model, "text").kind == {
        "activation": "gelu",
        "causal": True,
        "pooling": "end",
    }

"""Families of students: published counts and configurations, MobileCLIP-S0's mixed text tower, what has no name."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core.clip.model import MIXED, build_clip, count_parameters, import_open_clip
from distill.core.errors import UsageError
from students.reparameterize import reparameterize
from students.spec import STUDENTS, StudentSpec
from students.student import Student, build_student, load_student

open_clip = import_open_clip()

OPEN_CLIP_NAMES = {
    "mobileclip-s1": "MobileCLIP-S1", "mobileclip-s2": "MobileCLIP-S2", "mobileclip-b": "MobileCLIP-B",
    "mobileclip2-s0": "MobileCLIP2-S0", "mobileclip2-s2": "MobileCLIP2-S2", "mobileclip2-b": "MobileCLIP2-B",
    "mobileclip2-s3": "MobileCLIP2-S3", "mobileclip2-s4": "MobileCLIP2-S4", "mobileclip2-l14": "MobileCLIP2-L-14",
    "mobileclip-s3": "MobileCLIP2-S3", "mobileclip-s4": "MobileCLIP2-S4", "mobileclip-l14": "MobileCLIP2-L-14",
    "mci0": "MobileCLIP2-S0", "mci1": "MobileCLIP-S1", "mci2": "MobileCLIP2-S2", "mci3": "MobileCLIP2-S3",
    "mci4": "MobileCLIP2-S4", "vit-b-16": "ViT-B-16", "vit-b-32": "ViT-B-32",
    "vit-b-16-quickgelu": "ViT-B-16-quickgelu", "vit-b-32-quickgelu": "ViT-B-32-quickgelu",
}  # fmt: skip
# Millions, as the papers and release pages print them: image tower and text tower with its token table.
PUBLISHED = {
    "mobileclip-s0": (11.4, 42.4), "mobileclip-s1": (21.5, 63.4), "mobileclip-s2": (35.8, 63.4),
    "mobileclip-b": (86.3, 63.4), "mobileclip-s3": (125.2, 123.6), "mobileclip-s4": (321.8, 123.6),
    "mobileclip-l14": (304.0, 123.6), "mobileclip2-s0": (11.4, 63.4), "mobileclip2-s2": (35.8, 63.4),
    "mobileclip2-b": (86.3, 63.4), "mobileclip2-s3": (125.2, 123.6), "mobileclip2-s4": (321.8, 123.6),
    "mobileclip2-l14": (304.0, 123.6), "tinyclip-vit8m16": (8.3, 15.1), "tinyclip-vit39m16": (38.6, 44.5),
    "tinyclip-vit40m32": (39.7, 44.5), "tinyclip-vit61m32": (61.4, 54.0), "vit-b-32": (87.85, 63.43), "vit-b-16": (86.19, 63.43),
}  # fmt: skip


_known: dict[str, list[float]] = {}  # several names share one configuration


def counted(name: str) -> list[float]:
    spec = STUDENTS.get(name)
    key = json.dumps([spec.model_cfg, spec.vocabulary])
    if key not in _known:
        with torch.device("meta"):
            _known[key] = [count / 1e6 for count in count_parameters(build_student(spec, 0).clip).values()]
    return _known[key]


@pytest.mark.parametrize("name", STUDENTS)
def test_the_three_counts_of_every_architecture_are_those_that_its_spec_states(name: str):
    for count, stated in zip(counted(name)[:3], STUDENTS.get(name).published_params or (), strict=True):
        decimals = len(str(stated).partition(".")[2])
        assert abs(count - stated) <= 0.51 * 10**-decimals, "to the last digit"


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str):
    image, text, tokens = counted(name)
    assert (image, text + tokens) == pytest.approx(PUBLISHED[name], abs=0.1)


@pytest.mark.parametrize(("name", "image", "text"), [("tinyclip-resnet19m", 19, 19), ("tinyclip-resnet30m", 30, 29)])
def test_tinyclips_resnets_have_the_counts_of_their_names(name: str, image: int, text: int):
    assert [round(count) for count in counted(name)[:2]] == [image, text]


@pytest.mark.parametrize("name", OPEN_CLIP_NAMES)
def test_configurations_are_open_clips_own(name: str):
    assert STUDENTS.get(name).model_cfg == open_clip.get_model_config(OPEN_CLIP_NAMES[name])


@pytest.mark.parametrize("name", [name for name in OPEN_CLIP_NAMES if name.startswith(("mobileclip", "mci"))])
def test_preprocessing_is_that_of_the_published_weights(name: str):
    published = OPEN_CLIP_NAMES[name]
    (tag, *_) = open_clip.list_pretrained_tags_by_model(published)
    wanted = open_clip.get_pretrained_cfg(published, tag)
    spec = STUDENTS.get(name)
    found = (spec.mean, spec.std, spec.interpolation, spec.resize_mode)
    assert found == tuple(wanted[key] for key in ("mean", "std", "interpolation", "resize_mode"))


def test_published_training_of_the_families():
    """Samples seen, as the papers state them: 13 thousand million of MobileCLIP, 6 epochs of LAION-400M a stage of TinyCLIP."""
    assert STUDENTS.get("mobileclip-s0").training.samples == pytest.approx(13e9, rel=0.01)
    assert STUDENTS.get("mobileclip2-s4").training.samples == pytest.approx(22.9e9, rel=0.01)
    assert STUDENTS.get("tinyclip-vit40m32").training.samples == pytest.approx(6 * 400e6, rel=0.03)
    assert STUDENTS.get("mobileclip-b").training.warmup_share * 200_000 == 2_000
    assert STUDENTS.get("mci0").training.warmup_share * 200_000 == 10_000
    assert all(spec.training for name, spec in STUDENTS.items() if name.startswith(("mobileclip", "tinyclip", "mci")))


def test_tinyclips_auto_models_say_why_they_have_no_name():
    with pytest.raises(UsageError, match=r"other heads and MLP widths in every layer.*tinyclip-vit61m32"):
        STUDENTS.get("tinyclip-auto-vit63m32-text31m")


SMALL: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {
        "context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, "no_causal_mask": True, MIXED: 11,
    },
    "custom_text": True,
}  # fmt: skip


@pytest.fixture
def mixed() -> Student:
    """A small one whose branches matter: norms and scales as after training, and not as they start."""
    student = build_student(StudentSpec("mixed", SMALL), 0)
    generator = torch.Generator().manual_seed(1)
    for module in student.clip.text.transformer.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                value.data.uniform_(0.5, 1.5, generator=generator)
            for value in (module.bias, module.running_mean):
                value.data.normal_(generator=generator)
        if hasattr(module, "layer_scale") and isinstance(module.layer_scale, nn.Parameter):
            module.layer_scale.data.uniform_(0.3, 0.9, generator=generator)
    return student.eval()


def by_hand(block: Any, x: Tensor) -> Tensor:
    """A RepMixer block as the paper draws it, in one-dimensional operations: [b, L, D] -> the same."""

    def norm(bn: Any, y: Tensor) -> Tensor:
        return (y - bn.running_mean[:, None]) / (bn.running_var[:, None] + bn.eps).sqrt() * bn.weight[
            :, None
        ] + bn.bias[:, None]

    def along(conv: Any, y: Tensor) -> Tensor:
        padded = F.pad(y, (5, 5))
        return sum(conv.weight[:, 0, 0, k, None] * padded[..., k : k + y.shape[-1]] for k in range(11))  # type: ignore[return-value]

    y, mixer = x.transpose(1, 2), block.token_mixer
    mixed = norm(mixer.mixer.skip, y) + norm(mixer.mixer.conv[1], along(mixer.mixer.conv[0], y))
    y = y + mixer.layer_scale[..., 0] * (mixed - norm(mixer.norm.skip, y))
    inner = norm(block.convffn.conv[1], along(block.convffn.conv[0], y)).transpose(1, 2)
    fc1, fc2 = block.convffn.fc1, block.convffn.fc2
    inner = F.linear(F.gelu(F.linear(inner, fc1.weight[..., 0, 0], fc1.bias)), fc2.weight[..., 0, 0], fc2.bias)
    return y.transpose(1, 2) + block.layer_scale[:, 0, 0] * inner


def test_the_mixed_tower_computes_what_the_paper_draws(mixed: Student):
    text = mixed.clip.text
    tokens = mixed.tokenize(["two dogs on a hill", "a cat"])
    x = text.token_embedding(tokens) + text.positional_embedding
    x = by_hand(text.transformer.before, x)
    for block in text.transformer.resblocks:
        x = block(x)
    x = text.ln_final(by_hand(text.transformer.after, x))
    ends = (tokens == 49407).int().argmax(1)
    wanted = F.normalize(x[torch.arange(2), ends] @ text.text_projection, dim=-1)
    assert torch.allclose(mixed.encode_text(tokens), wanted, atol=1e-5)
    assert text.attn_mask is None, "no causal mask"


def test_the_mixed_tower_folds_to_the_published_count(mixed: Student):
    """42.441 million with its branches, 42.435 folded as Apple's function folds it, which leaves the BatchNorms of the feed-forward."""
    with torch.device("meta"):
        text = build_clip(STUDENTS.get("mobileclip-s0").model_cfg, seed=0, device="meta").get_submodule("text")
        assert round(sum(p.numel() for p in text.parameters()) / 1e6, 3) == 42.441
        for module in list(text.modules()):
            if hasattr(module, "reparameterize"):
                module.reparameterize()  # type: ignore[operator]
        assert round(sum(p.numel() for p in text.parameters()) / 1e6, 3) == 42.435
    tokens = mixed.tokenize(["two dogs on a hill", "a cat", ""])
    folded, folding = reparameterize(mixed.clip.text, lambda text: text(tokens), torch.float64)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert torch.allclose(folded.float()(tokens), mixed.clip.text(tokens), atol=1e-5)
    assert folding.difference < 1e-9


def test_the_mixed_tower_exports_saves_and_says_that_open_clip_has_it_not(mixed: Student, tmp_path: Any):
    from export.latency.graph.build import clip_operations
    from export.towers.tower import check_towers, deployable_towers

    tokens, pixels = mixed.tokenize(["two dogs on a hill", "a cat", ""]), torch.rand(2, 3, 32, 32)
    assert check_towers(mixed, *deployable_towers(mixed), pixels, tokens.int()) < 1e-5
    mixed.save(tmp_path / "s", {"licence": "x"})
    assert torch.equal(load_student(tmp_path / "s").encode_text(tokens), mixed.encode_text(tokens))
    with pytest.raises(TypeError, match=MIXED):
        open_clip.create_model(f"local-dir:{tmp_path / 's'}")
    convolutions = [op for op in clip_operations(mixed.spec.model_cfg, "text") if op.kind == "dw"]
    assert convolutions, "convolutions over tokens are counted"


def test_every_weight_of_the_mixed_tower_learns():
    student = build_student(StudentSpec("mixed", SMALL), 0)
    student.clip.set_grad_checkpointing()
    student.encode_text(student.tokenize(["two dogs", "a cat"])).square().sum(0)[:7].sum().backward()
    assert [name for name, p in student.clip.text.named_parameters() if p.grad is None] == []

"""`AlignmentHeads`: arithmetic against a plain rebuild, statistics, and the folder."""

from pathlib import Path

import pytest
import torch

from distill.core import atomic
from distill.core.errors import DistillError
from teachers.load import resolve_teacher
from teachers.towers.folder import read_heads_info
from teachers.towers.heads import AlignmentHeads, load_heads, save_heads_teacher


@pytest.fixture
def heads() -> AlignmentHeads:
    torch.manual_seed(0)
    small = AlignmentHeads(image_features=6, text_features=5, width=4, hidden=7)
    small.set_statistics(torch.randn(50, 6) * 3 + 2, torch.randn(60, 5))
    return small.eval()


def test_default_shape_is_the_one_of_the_two_towers() -> None:
    heads = AlignmentHeads()
    assert heads.image.mlp[0].weight.shape == (768, 1280)
    assert heads.text.linear.weight.shape == (256, 384)
    assert heads.image.mlp[2].p == 0.3
    assert float(heads.logit_scale.detach()) == pytest.approx(20.0)
    assert "log_logit_scale" in dict(heads.named_parameters())


def test_encode_is_the_formula(heads: AlignmentHeads) -> None:
    x = torch.randn(3, 6) * 3 + 2
    side = heads.image
    standard = ((x - side.mean) / side.std).double()
    first, last = side.mlp[0], side.mlp[3]
    hidden = standard @ first.weight.double().T + first.bias.double()
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    y = standard @ side.linear.weight.double().T + side.linear.bias.double()
    y = y + hidden @ last.weight.double().T + last.bias.double()
    with torch.no_grad():
        out = heads.encode_image(x)
    torch.testing.assert_close(out.double(), y / y.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))


def test_statistics_standardise() -> None:
    heads = AlignmentHeads(image_features=6, text_features=5, width=4, hidden=7)
    image, text = torch.randn(2000, 6) * 3 + 2, torch.randn(500, 5)
    image[:, 2] = 7.0  # a channel that never moves must not divide by zero
    heads.set_statistics(image, text)
    standard = (image - heads.image.mean) / heads.image.std
    torch.testing.assert_close(standard.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    moving = [0, 1, 3, 4, 5]
    torch.testing.assert_close(standard[:, moving].std(0), torch.ones(5), atol=2e-3, rtol=0)
    assert standard.isfinite().all()


def test_dropout_acts_in_training_only(heads: AlignmentHeads) -> None:
    x = torch.randn(8, 6)
    assert torch.equal(heads.encode_image(x), heads.encode_image(x))
    heads.train()
    assert not torch.equal(heads.encode_image(x), heads.encode_image(x))


def test_statistics_take_no_gradient_and_no_decay(heads: AlignmentHeads) -> None:
    trained = {name for name, _ in heads.named_parameters()}
    assert not any("mean" in name or "std" in name for name in trained)


def test_round_trip(heads: AlignmentHeads, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    save_heads_teacher(folder, heads, {"name": "mine", "licence": "research only", "seed": 3})
    again = load_heads(folder)
    x, t = torch.randn(3, 6), torch.randn(3, 5)
    assert torch.equal(again.encode_image(x), heads.encode_image(x))
    assert torch.equal(again.encode_text(t), heads.encode_text(t))
    assert read_heads_info(folder)["info"]["seed"] == 3
    spec = resolve_teacher(str(folder))
    assert (spec.name, spec.loader, spec.width, spec.licence) == ("mine", "towers", 4, "research only")
    assert not spec.commercial
    first = (folder / "heads.safetensors").read_bytes()
    save_heads_teacher(folder, heads, {"name": "mine", "licence": "research only", "seed": 3})
    assert (folder / "heads.safetensors").read_bytes() == first
    assert not list(tmp_path.glob(".partial-*"))


def test_damage_is_named(heads: AlignmentHeads, tmp_path: Path) -> None:
    save_heads_teacher(tmp_path / "t", heads, {})
    other = AlignmentHeads(image_features=6, text_features=5, width=4, hidden=7)
    save_heads_teacher(tmp_path / "u", other, {})
    weights = (tmp_path / "u" / "heads.safetensors").read_bytes()
    (tmp_path / "t" / "heads.safetensors").write_bytes(weights)
    with pytest.raises(DistillError, match="SHA-256 differs"):
        load_heads(tmp_path / "t")
    (tmp_path / "t" / "heads.safetensors").write_bytes(weights[:100])
    with pytest.raises(DistillError, match=r"heads\.safetensors cannot be loaded"):
        load_heads(tmp_path / "t")
    atomic.write_json(tmp_path / "t" / "teacher.json", {"format": 99})
    with pytest.raises(DistillError, match="another version"):
        load_heads(tmp_path / "t")
    (tmp_path / "t" / "teacher.json").write_text("nonsense")
    with pytest.raises(DistillError, match=r"teacher\.json cannot be read"):
        resolve_teacher(str(tmp_path / "t"))

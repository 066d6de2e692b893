"""Folding against the unfolded model, in float64 and as published; what must stay stays, and says why."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.core.clip.model import import_open_clip
from distill.core.errors import DistillError
from students.folding import fold_norms
from students.reparameterize import reparameterize

import_open_clip()  # timm needs its torchvision mended


def enliven(model: nn.Module) -> None:
    """Statistics and layer scales as of a trained network: at their initial values a wrong fold changes next to nothing."""
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "gamma" in name:
            parameter.data.fill_(0.3)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3, generator=draw)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5, generator=draw)  # type: ignore[union-attr]
            if part.affine:
                part.weight.data.uniform_(0.5, 1.5, generator=draw)
                part.bias.data.normal_(0, 0.3, generator=draw)


class Net(nn.Module):
    """The parts by name, and a forward that uses them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.rule = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


def conv(i: int = 4, o: int = 4, size: int = 3, pad: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, size, padding=pad, **options)


class Doubled(nn.Conv2d):
    """Not its plain weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * 2, self.bias)


def _branches(m: Any, x: Tensor) -> Tensor:
    return m.norm(m.a(x)) if float(x.sum()) > -1e9 else x  # cannot be traced


FOLDS: dict[str, Net] = {
    "behind a convolution": Net(lambda m, x: m.norm(m.a(x)), a=conv(bias=False), norm=nn.BatchNorm2d(4)),
    "behind a dropout": Net(lambda m, x: m.norm(m.d(m.a(x))), a=conv(), d=nn.Dropout(), norm=nn.BatchNorm2d(4)),
    "behind a linear layer": Net(
        lambda m, x: m.norm(m.a(x.mean((2, 3)))), a=nn.Linear(4, 6), norm=nn.BatchNorm1d(6, affine=False)
    ),
    "before a linear layer": Net(
        lambda m, x: m.a(m.norm(x.mean((2, 3)))), a=nn.Linear(4, 6, bias=False), norm=nn.BatchNorm1d(4)
    ),
    "before tokens, with a residual": Net(
        lambda m, x: x + m.a(m.norm(x).flatten(2).transpose(-2, -1)).transpose(1, 2).reshape(x.shape),
        a=nn.Linear(4, 4, bias=False), norm=nn.BatchNorm2d(4),
    ),
    "before unpadded convolutions, grouped": Net(
        lambda m, x: (lambda y: m.a(y) + m.b(y))(m.norm(x)),
        a=conv(pad=0, groups=2), b=conv(pad=0, groups=4, bias=False), norm=nn.BatchNorm2d(4),
    ),
    "a convolution read twice, before a pointwise one": Net(
        lambda m, x: (lambda y: y + m.b(m.norm(y)))(m.a(x)), a=conv(), b=conv(size=1, pad=0), norm=nn.BatchNorm2d(4)
    ),
    "an activation of its own": Net(
        lambda m, x: m.block.norm(m.block.a(x)).relu(), block=nn.ModuleDict({"a": conv(), "norm": nn.BatchNorm2d(4)})
    ),
    "inside what can be traced, of what cannot": Net(
        lambda m, x: m.part(x) if float(x.sum()) > -1e9 else x, part=nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU())
    ),
}  # fmt: skip
STAYS: dict[str, tuple[Net, str]] = {
    "read by two, into an addition": (
        Net(lambda m, x: (lambda y: y + m.norm(y))(m.a(x)), a=conv(), norm=nn.BatchNorm2d(4)), "goes into add",
    ),
    "before a padded convolution": (Net(lambda m, x: m.a(m.norm(x)), a=conv(), norm=nn.BatchNorm2d(4)), "pads"),
    "before a linear layer along another axis": (
        Net(lambda m, x: m.a(m.norm(x)), a=nn.Linear(8, 3), norm=nn.BatchNorm2d(4)), "does not read its channels",
    ),
    "a convolution used twice": (
        Net(lambda m, x: m.a(m.norm(m.a(x))), a=conv(), norm=nn.BatchNorm2d(4)), "goes into a",
    ),
    "used twice itself": (
        Net(lambda m, x: m.norm(m.b(m.norm(m.a(x)))), a=conv(), b=conv(), norm=nn.BatchNorm2d(4)), "more than once",
    ),
    "weights that are not plain": (
        Net(lambda m, x: m.norm(m.a(x)), a=Doubled(4, 4, 3), norm=nn.BatchNorm2d(4)), "no convolution or linear layer with plain weights",
    ),
    "no statistics": (
        Net(lambda m, x: m.norm(m.a(x)), a=conv(), norm=nn.BatchNorm2d(4, track_running_stats=False)), "depends on its batch",
    ),
    "no trace": (Net(_branches, a=conv(), norm=nn.BatchNorm2d(4)), "cannot be traced"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_folded_without_a_trace(name: str) -> None:
    model = FOLDS[name].double().eval()
    enliven(model)
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    folded = copy.deepcopy(model)
    with torch.no_grad():
        folding = fold_norms(folded)
        assert torch.allclose(folded(x), model(x), rtol=1e-12, atol=1e-12)
    assert len(folding.folded) == 1
    assert not folding.left
    assert not any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in folded.modules())


@pytest.mark.parametrize("name", STAYS)
def test_what_cannot_be_folded_stays_and_says_why(name: str) -> None:
    model, why = STAYS[name]
    model = model.double().eval()
    enliven(model) if name != "no statistics" else None
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    folded = copy.deepcopy(model)
    with torch.no_grad():
        folding = fold_norms(folded)
        assert torch.equal(folded(x), model(x))
    assert list(folding.left) == ["norm"]
    assert why in folding.left["norm"]


# timm's name, what makes it small enough for here, BatchNorms that timm's own function leaves
PUBLISHED: list[tuple[str, dict[str, Any], int]] = [("fastvit_mci0", {}, 22), ("vit_base_mci_224", {"depth": 1}, 2)]


@pytest.mark.parametrize(("name", "options", "left"), PUBLISHED, ids=[name for name, _, _ in PUBLISHED])
def test_no_batch_norm_is_left_of_published_towers(name: str, options: dict[str, Any], left: int) -> None:
    """The other four, which are larger, are in benchmarks/folding.py."""
    import timm
    from timm.utils import reparameterize_model

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **options).eval()
    enliven(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    size = 224 if "vit_base" in name else 128
    pixels = torch.rand(2, 3, size, size)
    folded, folding = reparameterize(model, lambda tower: tower(pixels.double()))
    norms = [part for part in folded.modules() if isinstance(part, nn.BatchNorm2d)]
    assert not norms
    assert not folding.left
    scales = [name for name, part in folded.named_modules() if type(part).__name__ == "LayerScale2d"]
    assert all(name.endswith("layer_scale_1") for name in scales)  # behind attention, whose output is reshaped
    timms = reparameterize_model(model)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in timms.modules()) == len(folding.folded) == left
    with torch.no_grad():
        assert float(torch.cosine_similarity(folded(pixels), model(pixels)).min()) >= 0.999999
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(value.requires_grad for value in model.parameters())


def test_branches_that_timm_folds_in_the_default_precision() -> None:
    """RepViT's: its folded convolutions are made anew, and must be of float64 like the rest."""
    import timm

    model = timm.create_model("repvit_m0_9", num_classes=0).eval()
    enliven(model)
    x = torch.randn(1, 3, 64, 64)
    folded, folding = reparameterize(model, lambda net: net(x.double()))
    assert folding.difference < 1e-9
    with torch.no_grad():
        assert torch.allclose(folded(x), model(x), rtol=1e-3, atol=1e-3)


def test_a_module_that_is_not_what_its_name_says_is_caught() -> None:
    """timm merges whatever offers `reparameterize`; one that merges wrongly is not exported."""

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.merged = conv(), nn.BatchNorm2d(4), False

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y if self.merged else self.norm(y)

        def reparameterize(self) -> None:
            self.merged = True

    model = nn.Sequential(Wrong()).eval()
    enliven(model)
    with pytest.raises(DistillError, match="differs from the trained one by"):
        reparameterize(model, lambda net: net(torch.ones(1, 4, 8, 8).double()))


def test_a_folded_model_refuses_training() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4))
    folded, _ = reparameterize(model, lambda net: net(torch.ones(1, 4, 8, 8).double()))
    assert not folded.training
    folded.eval()
    assert model.train().training
    with pytest.raises(DistillError, match="Train the student it was made from"):
        folded.train()
    with pytest.raises(DistillError, match="folded for running"):
        nn.ModuleList([folded]).train()
    assert isinstance(folded, nn.Sequential)
    again = copy.deepcopy(folded)
    assert torch.equal(again(torch.ones(1, 4, 8, 8)), folded(torch.ones(1, 4, 8, 8)))

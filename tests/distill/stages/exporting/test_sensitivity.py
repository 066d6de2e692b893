"""What layers lose alone: a planted one comes first, by torch's own arithmetic, and files that keep it lose less."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from distill.stages.exporting.sensitivity import chosen, layer_losses, rounded_weight
from export.target import get_target
from export.towers.parity import Reference, check_file


class Chain(nn.Module):
    """Residual linear layers, of which one is planted.

    For int8 one weight of each row is so large that the others are lost in its steps (what it multiplies is zero); for palettes every
    other row is large, which the next lines take back.
    """

    def __init__(self, planted: int, rows: bool = False) -> None:
        super().__init__()
        torch.manual_seed(planted)
        self.conv = nn.Conv2d(3, 64, 4, stride=4)
        self.layers = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(4))
        self.out = nn.Parameter(torch.randn(64, 48) / 8)
        self.register_buffer("without", 1 - nn.functional.one_hot(torch.tensor(5), 64).float())
        self.register_buffer("gains", torch.ones(4, 64))
        with torch.no_grad():
            if rows:
                self.gains[planted, ::2] = 0.01  # type: ignore[index]
                self.layers[planted].weight[::2] *= 100  # type: ignore[index]
                self.layers[planted].weight *= 3  # type: ignore[operator]
            else:
                self.layers[planted].weight[:, 5] = 40.0  # type: ignore[index]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(pixels)).mean((2, 3))[:, None]
        for at, layer in enumerate(self.layers):
            x = x * self.without  # type: ignore[operator]
            x = x + torch.tanh(layer(x) * self.gains[at])  # type: ignore[index]
        z = x[:, 0] @ self.out
        return z / z.norm(dim=-1, keepdim=True)


PIXELS = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("planted", [0, 2])
@pytest.mark.parametrize("precision", ["w8", "p4", "w8a8-dynamic", "w8a8"])
def test_the_planted_layer_is_the_one_that_is_kept(planted: int, precision: str) -> None:
    net = Chain(planted, rows=precision == "p4").eval().requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    losses = layer_losses(net, "image", precision, PIXELS)
    assert {layer.name for layer in losses} == {"conv.weight", "out", *(f"layers.{i}.weight" for i in range(4))}
    assert [layer.name for layer in chosen(losses, 0.5)] == [f"layers.{planted}.weight"]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_loss_by_hand() -> None:
    net = Chain(1).eval().requires_grad_(False)
    found = {layer.name: layer.lost for layer in layer_losses(net, "image", "w8", PIXELS)}
    eager = net(PIXELS).double()
    weight = net.layers[1].weight
    for row in range(64):
        step = float(weight[row].abs().max()) / 127
        weight[row] = torch.tensor([round(float(value) / step) * step for value in weight[row]])
    got, mean = net(PIXELS).double(), eager.mean(0)
    by_hand = 1 - sum(
        float((a - mean) @ (b - mean) / ((a - mean).norm() * (b - mean).norm()))
        for a, b in zip(got, eager, strict=True)
    ) / len(eager)
    assert found["layers.1.weight"] == pytest.approx(by_hand, rel=1e-3)


def test_palettes_have_as_many_values_as_they_may() -> None:
    weight = torch.randn(32, 50)
    assert len(rounded_weight(weight, "p6", 0).unique()) <= 64
    four = rounded_weight(weight, "p4", 0)
    assert all(len(part.unique()) <= 16 for part in four.split(16))
    assert len(four.unique()) > 16
    turned = rounded_weight(weight.T.contiguous(), "w8", 1)
    assert torch.allclose(turned.T, rounded_weight(weight, "w8", 0))


@pytest.mark.parametrize(
    ("name", "precision"), [("coreml", "w8"), ("coreml", "p4"), ("onnx", "w8"), ("onnx", "w8a8-dynamic")]
)
def test_a_file_that_keeps_it_loses_less(name: str, precision: str, tmp_path: Path) -> None:
    net = Chain(2, rows=precision == "p4").eval().requires_grad_(False)
    kept = [layer.name for layer in chosen(layer_losses(net, "image", precision, PIXELS), 0.5)]
    eager = net(PIXELS).numpy()
    reference = Reference(PIXELS.numpy(), np.zeros((1, 4), np.int32), eager, eager)
    program = torch.export.export(net, (PIXELS[:1],))
    lost = []
    for layers in ([], kept):
        target = get_target(name).at(precision)
        target = target.keeping({"image": layers}) if layers else target
        path = tmp_path / f"{len(layers)}{target.suffix}"
        target.convert(program, "image", path)
        found = check_file(target, path, "image", reference).centred_cosine_mean
        assert found is not None
        lost.append(1 - found)
    assert lost[1] < 0.5 * lost[0]

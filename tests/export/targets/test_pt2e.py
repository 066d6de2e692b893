"""Quantizing an exported program: what stays equal, what is quantized, and the fold that corrupts a residual."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.core.errors import DistillError
from export.targets.executorch_xnnpack import _quantized
from export.towers.rewrite import ScaleShift
from export.towers.tower import deployable_towers
from students.student import Student

pytestmark = pytest.mark.process


class Residual(nn.Module):
    """What FastViT's attention blocks do: the convolution's output is normalised, and is the residual too."""

    def __init__(self, rewritten: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        nn.init.uniform_(norm.running_var, 2, 3)
        nn.init.uniform_(norm.running_mean, 1, 2)
        self.norm = ScaleShift(norm.eval()) if rewritten else norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.norm(y)


def _program(module: nn.Module, example: torch.Tensor) -> Any:
    return torch.export.export(module.eval(), (example,))


def test_a_batchnorm_whose_input_is_the_residual_too_is_noticed() -> None:
    x = torch.rand(1, 3, 4, 4)
    with pytest.raises(DistillError, match="changed what it computes"):
        _quantized(_program(Residual(rewritten=False), x), x.numpy())
    module = Residual(rewritten=True)
    made = _quantized(_program(module, x), x.numpy()).module()(x)
    assert float((made - module(x)).detach().abs().max()) < 0.05  # int8's rounding alone


@pytest.mark.parametrize("learned", [False, True])
def test_layers_are_quantized_and_the_rest_stays_float(
    learned: bool, student: Student, pixels: np.ndarray, tokens: np.ndarray
) -> None:
    image, text = deployable_towers(student)
    for tower, inputs in ((image, pixels), (text, tokens)):
        program = _quantized(_program(tower, torch.from_numpy(inputs[:1])), inputs[:6] if learned else None)
        made = torch.cat([program.module()(torch.from_numpy(item[None])) for item in inputs])
        cosine = (made * tower(torch.from_numpy(inputs))).sum(-1)
        assert 0.99 < cosine.min() < 1 - 1e-9
        layers, quantized_inputs, roundings = 0, 0, 0
        for node in program.graph.nodes:
            name = str(node.target)
            if name in ("aten.linear.default", "aten.conv2d.default"):
                layers += name == "aten.linear.default" or learned
                quantized_inputs += "dequantize" in str(node.args[0].target)
            # Input, output and bias of each layer at most: sums, products and the norm bring no rounding of their own.
            roundings += "quantize_per_tensor" in name and "dequantize" not in name
        assert layers == quantized_inputs > 4
        assert roundings <= 3 * layers


class Pooled(nn.Module):
    """Attention pooling as SigLIP's: the query is a weight that goes through a linear layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.randn(1, 4, 32))
        self.query, self.key = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.query(self.latent) @ self.key(x).transpose(1, 2)


def test_layers_that_no_input_reaches_stay_in_floats() -> None:
    """XNNPACK takes no layer of constants, and ExecuTorch has no other kernel for scales that are found at each call."""
    torch.manual_seed(0)
    program = torch.export.export(Pooled().eval(), (torch.randn(1, 6, 32),))
    made = _quantized(program, None)
    calls = [str(node.target) for node in made.graph.nodes if node.op == "call_function"]
    assert sum("choose_qparams" in call for call in calls) == 1
    x = torch.randn(1, 6, 32)
    torch.testing.assert_close(made.module()(x), program.module()(x), atol=0.05, rtol=0.05)
    assert not torch.equal(made.module()(x), program.module()(x))
    query = next(
        node for node in made.graph.nodes if node.name.startswith("linear") and "latent" in str(node.all_input_nodes)
    )
    assert not any("quantize" in str(node) for node in query.all_input_nodes)

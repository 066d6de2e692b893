"""Each rewrite against the module it replaces."""

import pytest
import torch
from torch import nn

from export.towers.rewrite import PlainAttention, ScaleShift, rewrite_for_export


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_attention_equals_torchs_with_causal_mask() -> None:
    fused = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    nn.init.normal_(fused.in_proj_bias)
    x = _random(2, 7, 24)
    mask = torch.full((7, 7), float("-inf")).triu(1)
    expected = fused(x, x, x, need_weights=False, attn_mask=mask)[0]
    plain = PlainAttention(fused)
    assert torch.allclose(plain(x, x, x, attn_mask=mask.clamp(min=-1e4))[0], expected, atol=1e-6)
    assert not torch.allclose(plain(x, x, x)[0], expected, atol=1e-3)  # the mask matters


def test_cross_attention_with_other_widths() -> None:
    fused = nn.MultiheadAttention(24, 3, kdim=10, vdim=14, batch_first=True).eval()
    q, k, v = _random(1, 2, 24), _random(1, 5, 10), _random(1, 5, 14)
    assert torch.allclose(PlainAttention(fused)(q, k, v)[0], fused(q, k, v, need_weights=False)[0], atol=1e-6)


def test_attention_without_biases() -> None:
    fused = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).eval()
    x = _random(1, 3, 8)
    assert torch.allclose(PlainAttention(fused)(x, x, x)[0], fused(x, x, x)[0], atol=1e-6)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"batch_first": False}])
def test_attention_refuses_what_it_does_not_do(options: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="not rewritten"):
        PlainAttention(nn.MultiheadAttention(8, 2, **{"batch_first": True, **options}))


def _used_norm(width: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width)
    norm.running_mean.copy_(_random(width))
    norm.running_var.copy_(_random(width).square() + 0.1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.eval()


def test_scale_shift_equals_batch_norm() -> None:
    norm, x = _used_norm(5), _random(2, 5, 4, 4)
    assert torch.allclose(ScaleShift(norm)(x), norm(x), atol=1e-5)
    with pytest.raises(ValueError, match="running statistics"):
        ScaleShift(nn.BatchNorm2d(5, track_running_stats=False))


def test_a_norm_beside_a_residual_is_not_folded_into_the_convolution() -> None:
    """The trap of FastViT's attention blocks: the convolution's output has a second user."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(5, 5, 3, padding=1)
            self.bn = _used_norm(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y + self.bn(y)

    block, x = Block().eval(), _random(1, 5, 6, 6)
    expected = block(x)
    rewrite_for_export(block)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in block.modules())
    assert torch.allclose(block(x), expected, atol=1e-5)

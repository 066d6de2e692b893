"""Channels-last order changes strides and no value: gradients in float64, and nothing of it is left afterwards."""

import copy

import pytest
import torch
from torch import nn

from distill.core.clip.channels_last import channels_last
from students.spec import STUDENTS
from students.student import build_student


@pytest.mark.parametrize("name", ["mci0", "timm:tf_efficientnet_lite0@64+text:1x64"])
def test_gradients_stay(name: str) -> None:
    student = build_student(STUDENTS.get(name).resized(image_size=64), 0)
    tower = student.clip.visual.double().eval()
    other, pixels = copy.deepcopy(tower), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tower(pixels).pow(2).sum().backward()
    with channels_last(other) as changed:
        other(pixels).pow(2).sum().backward()
        assert any(not weight.is_contiguous() for weight in other.parameters())
    assert changed
    for (path, one), two in zip(tower.named_parameters(), other.parameters(), strict=True):
        assert two.is_contiguous()
        assert torch.equal(one, two)
        if one.grad is not None:
            assert torch.allclose(one.grad, two.grad, rtol=1e-9, atol=1e-9 * float(one.grad.abs().max())), path


def test_what_overwrites_memory_and_what_gains_nothing_keeps_its_order() -> None:
    """Strided 1 x 1 convolutions of few channels crash in torch 2.13's CPU kernel; a ViT has a single convolution."""
    tower = nn.Sequential(nn.Conv2d(3, 8, 1, 2), nn.Conv2d(3, 8, 3, 2), nn.Conv2d(32, 8, 1, 2), nn.Conv2d(8, 8, 1))
    last = [module.weight.stride() for module in tower]
    with channels_last(tower) as changed:
        now = [module.weight.stride() for module in tower]
        assert (changed, now[0]) == (True, last[0])
        assert all(tower[n].weight.is_contiguous(memory_format=torch.channels_last) for n in (1, 2, 3))
    assert [module.weight.stride() for module in tower] == last
    with channels_last(
        build_student(STUDENTS.get("tinyclip-vit8m16").resized(image_size=32), 0).clip.visual
    ) as changed:
        assert not changed


def test_the_order_comes_back_after_a_failure() -> None:
    tower = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    with pytest.raises(RuntimeError), channels_last(tower):
        raise RuntimeError
    assert all(weight.is_contiguous() for weight in tower.parameters())

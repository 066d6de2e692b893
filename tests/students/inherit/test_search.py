"""Learned masks: their expectation in closed form, the Lagrangian at and off its target, and planted parts that are found."""

import math

import pytest
import torch

from distill.core.clip.weights import ClipWeights
from students.inherit.calibration import Calibration
from students.inherit.scoring.masks import HardConcrete, Lagrangian, ramp
from students.inherit.scoring.search import TowerMasks, learn_masks
from students.inherit.towers.tower import tower_of, tower_of_config
from students.spec import STUDENTS
from students.student import build_student


@pytest.mark.parametrize("log_alpha", [-3.0, -0.5, 0.0, 1.0, 4.0])
def test_the_expected_number_of_masks_is_their_mean_number(log_alpha):
    mask = HardConcrete((200_000,), log_alpha)
    drawn = mask.sample(torch.Generator().manual_seed(0))
    share = (drawn > 0).float().mean().item()
    expected = mask.expected()[0].item()
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 200_000) + 1e-5)
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_the_lagrangian_is_zero_at_its_target_and_its_multipliers_rise_off_it():
    lagrangian = Lagrangian(2)
    target = torch.tensor([0.5, 0.25])
    assert lagrangian.penalty(target, target) == 0
    for kept, sign in ((torch.tensor([0.75, 0.25]), 1), (torch.tensor([0.25, 0.25]), -1)):  # too many, and too few
        lagrangian = Lagrangian(2)
        kept.requires_grad_()
        lagrangian.penalty(kept, target).backward()
        before = [p.detach().clone() for p in lagrangian.parameters()]
        lagrangian.ascend(0.5)
        linear, quadratic = (p.detach() - old for p, old in zip(lagrangian.parameters(), before, strict=True))
        assert linear.tolist() == [sign * 0.125, 0]
        assert quadratic.tolist() == [0.5 * 0.0625, 0]
        assert math.copysign(1, kept.grad[0]) == sign  # down from above, up from below


def test_the_target_is_reached_on_a_straight_line_in_half_of_the_steps():
    target = torch.tensor([0.5])
    assert [ramp(step, 8, target).item() for step in (0, 1, 3, 4, 7)] == [0.875, 0.75, 0.5, 0.5, 0.5]


def test_masks_end_near_the_student_s_shares_and_drop_what_does_nothing():
    teacher = build_student(STUDENTS.get("rendered-teacher"), 0).eval()
    state = teacher.clip.state_dict()
    for layer in range(3):
        for part in ("weight", "bias"):
            state[f"transformer.resblocks.{layer}.mlp.c_fc.{part}"][:256] = 0
    source = ClipWeights(
        "t", teacher.spec.model_cfg, state, "abc", teacher.vocabulary,
        model=teacher.clip, normalise=teacher.normalised, tokenize=teacher.tokenize,
    )  # fmt: skip
    words = ["red circle", "two blue squares", "a star", "green", "five triangles above", "small", "large dot", "left"]
    pairs = Calibration(torch.zeros(8, 3, 64, 64), words, lambda student: torch.zeros(()))
    cfg = build_student(STUDENTS.get("nano"), 0).spec.model_cfg
    old, new = tower_of(source, "text"), tower_of_config(cfg, "text")
    found = learn_masks(source, {"text": (old, new)}, pairs, steps=100)["text"]
    masks = TowerMasks(old, new)
    for axis, value in found.items():
        masks.masks[axis].log_alpha.data.copy_(value)
    assert torch.allclose(masks.kept(), masks.target, atol=0.15)
    kept = found["ffn"][0].topk(256).indices
    assert (kept >= 256).float().mean() > 0.6  # half would be chance

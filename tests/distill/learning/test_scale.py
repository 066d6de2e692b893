"""The logit scale: it is free to fall from its bound, never passes it, and is settled where no loss trains it."""

import math

import pytest
import torch
from torch.nn import functional as F

from distill.learning.objective import PRESETS, Objective, fixed_scale
from distill.learning.task import DistillTask
from teachers.spec import TeacherFacts
from tests.distill.learning.test_losses import TwoLinear

D = 6
SOFTMAX = {"t": TeacherFacts("t", D, 50.0, 0.0, "softmax")}
SIGMOID = {"t": TeacherFacts("t", D, 112.0, -10.0, "sigmoid")}  # SigLIP's scales are above CLIP's bound


def task_of(objective, facts, scale=7.0):
    model = TwoLinear()
    with torch.no_grad():
        model.log_logit_scale.fill_(math.log(scale))
    return DistillTask(model, Objective(objective, D, facts), facts, fixed_scale(objective))


def steps(task, count, lr=0.05):
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=lr, weight_decay=0)
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(count):
        x, y = torch.randn(8, 3, generator=generator), torch.randn(8, 4, generator=generator)
        u, v = ({"t": F.normalize(torch.randn(8, D, generator=generator), dim=-1)} for _ in range(2))
        optimizer.zero_grad()
        task(x, y, u, v)["loss"].backward()
        optimizer.step()
        task.after_step()
        seen.append(task.model.logit_scale.item())
    return seen


@pytest.mark.parametrize("objective", ["mobileclip", "clip", "small-batch"])
@pytest.mark.parametrize("start", [100.0, 5000.0])
def test_an_inherited_scale_of_a_hundred_can_fall(objective, start):
    """Random pairs ask for a smaller scale. A clamp in the forward pass gave no gradient at the bound, so it stayed for ever."""
    seen = steps(task_of(objective, SOFTMAX, start), 12)
    assert max(seen) <= 100 * (1 + 1e-6)
    assert seen[-1] < 90


def test_a_scale_that_would_rise_stays_at_the_bound():
    task = task_of("clip", {}, 99.0)
    x, y = torch.eye(3).repeat(1, 1), torch.eye(4)[:3]
    optimizer = torch.optim.SGD([task.model.log_logit_scale], lr=1e4)
    with torch.no_grad():  # pairs that agree perfectly: the larger the scale, the smaller the loss
        for layer in (task.model.a, task.model.b):
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[:3, :3] = torch.eye(3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = task(x, y, {}, {})["loss"]
        loss.backward()
        assert task.model.log_logit_scale.grad is not None
        optimizer.step()
        task.after_step()
    assert task.model.logit_scale.item() <= 100 * (1 + 1e-6)


def test_the_interactive_scale_is_bound_after_the_step_too():
    task = task_of({"interactive": 1.0}, SOFTMAX)
    (loss,) = (loss for name, loss in task.objective.named_losses())
    with torch.no_grad():
        loss.log_scale.fill_(math.log(100))
    steps(task, 6)
    assert loss.scale() < 99


def test_where_no_loss_reads_the_scale_it_is_frozen_and_settled():
    cases = {
        "fixed": (task_of("tinyclip", SOFTMAX), 50.0, "fixed by the objective"),
        "sigmoid": (task_of("mobileclip", SIGMOID), 112.0, "affinity"),
        "feature": (task_of({"feature": 1.0}, SOFTMAX), 50.0, "teacher t"),
        "interactive": (task_of({"feature": 1.0, "interactive": 1.0}, SOFTMAX), 1 / 0.07, "interactive"),
    }
    for name, (task, expected, origin) in cases.items():
        assert not task.model.log_logit_scale.requires_grad, name
        said = task.settle_scale()
        assert origin in said, name
        assert task.model.logit_scale.item() == pytest.approx(expected, rel=1e-5), name
    for objective in ("clip", "mobileclip", "clipkd", "small-batch"):
        task = task_of(objective, SOFTMAX)
        before = task.model.logit_scale.item()
        assert task.model.log_logit_scale.requires_grad
        assert task.settle_scale() == "trained"
        assert task.model.logit_scale.item() == before


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("objective", [*PRESETS, "features"])
def test_every_parameter_that_is_not_frozen_gets_a_gradient(objective, kind):
    """What DistributedDataParallel demands of every step; with real processes: test_distributed."""
    facts = SOFTMAX if kind == "softmax" else SIGMOID
    task = task_of({"feature": 1.0} if objective == "features" else objective, facts)
    x, y = torch.randn(8, 3), torch.randn(8, 4)
    u, v = ({"t": F.normalize(torch.randn(8, D), dim=-1)} for _ in range(2))
    task(x, y, u, v)["loss"].backward()
    without = [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_a_caption_decoder_that_no_loss_reaches_is_frozen():
    from students.spec import STUDENTS
    from students.student import build_student

    student = build_student(STUDENTS.get("coca-nano"), 0)
    DistillTask(student, Objective("clip", D, {}), {})
    assert not any(p.requires_grad for p in student.caption_decoder.parameters())
    again = build_student(STUDENTS.get("coca-nano"), 0)
    DistillTask(again, Objective("coca", D, {}), {})
    assert all(p.requires_grad for p in again.caption_decoder.parameters())

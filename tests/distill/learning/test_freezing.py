"""Learning rates by origin, and a text tower that is frozen first."""

import pytest
import torch
from torch import nn

from distill.core.errors import UsageError
from distill.learning.freezing import TextFreeze
from distill.learning.loop.schedule import parameter_groups
from distill.learning.objective import Objective
from distill.learning.settings import OptimSettings
from distill.learning.task import DistillTask
from distill.stages.training.start import rates_by_origin
from students.spec import STUDENTS
from students.student import build_student
from teachers.spec import TeacherFacts

FACTS = {"t": TeacherFacts("t", 128, 20.0, 0.0, "softmax")}
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 3, 64, 64, generator=GENERATOR)
IMAGE, TEXT = (nn.functional.normalize(torch.randn(4, 128, generator=GENERATOR), dim=1) for _ in range(2))
CAPTIONS = ["a red circle", "two blue squares", "a star", "five"]


def task_of(freeze=None, objective="small-batch", facts=FACTS):
    torch.manual_seed(0)
    student = build_student(STUDENTS.get("nano"), 0)
    return DistillTask(student, Objective(objective, 128, facts), facts, freeze=freeze)


def losses(task):
    return task(IMAGES, task.model.tokenize(CAPTIONS), {"t": IMAGE}, {"t": TEXT})


def test_each_parameter_learns_at_the_rate_of_its_origin():
    task = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    optim = OptimSettings(lr_inherited=0.2, lr_adopted=0.5)
    factor = rates_by_origin({"a.weight": "inherited", "a.bias": "adopted"}, optim)
    groups = parameter_groups(task, 0.1, factor)
    found = {name: (group["factor"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert found == {"a.weight": (0.2, 0.1), "a.bias": (0.5, 0.0), "b.weight": (1.0, 0.1), "b.bias": (1.0, 0.0)}
    assert sum(len(group["params"]) for group in groups) == 4


def test_the_factor_scales_the_step():
    """AdamW's first step without decay is lr times the sign of the gradient: 0.2 of it for a factor of 0.2."""
    parameter = nn.Parameter(torch.ones(2, 2))
    task = nn.ParameterDict({"x": parameter})
    groups = parameter_groups(task, 0.0, lambda _: 0.2)
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["factor"]
    parameter.grad = torch.full((2, 2), 3.0)
    optimizer.step()
    assert torch.allclose(parameter, torch.full((2, 2), 0.98), atol=1e-5)


@pytest.mark.parametrize("against", ["own", "stored"])
def test_a_frozen_text_tower_stays_and_then_learns(against):
    task = task_of(TextFreeze(1, against))
    optimizer = torch.optim.AdamW(parameter_groups(task, 0.1), lr=1e-3)
    text = {n: p for n, p in task.model.clip.named_parameters() if not n.startswith(("visual.", "logit"))}
    for step, moves in ((0, False), (1, True)):
        before = {name: value.detach().clone() for name, value in text.items()}
        image = task.model.clip.visual.proj.detach().clone()
        task.before_step(step)
        optimizer.zero_grad()
        losses(task)["loss"].backward()
        task.drop_gradients()
        optimizer.step()
        assert any(not torch.equal(before[name], value) for name, value in text.items()) == moves
        assert not torch.equal(image, task.model.clip.visual.proj)


def test_stored_text_embeddings_stand_for_the_student_s():
    task = task_of(TextFreeze(1, "stored"), {"affinity": 1.0, "feature": 1.0})
    task.before_step(0)
    image = task.model.encode_image(IMAGES)
    feature = (1 - (image * IMAGE).sum(1)).mean()  # the text's part is 0: it is the teacher's own
    assert losses(task)["feature"].item() == pytest.approx(feature.item(), abs=1e-5)
    calls = []
    task.model.encode_text = lambda tokens: calls.append(tokens)
    losses(task)
    assert calls == []


def test_what_cannot_be_frozen_so_is_refused():
    with pytest.raises(UsageError, match=r"student\.embed_dim=64"):
        task_of(TextFreeze(1, "stored"), facts={"t": TeacherFacts("t", 64, 20.0, 0.0, "softmax")})
    with pytest.raises(UsageError, match="stored teacher embeddings"):
        task_of(TextFreeze(1, "stored"), "clip", {})


def test_fixed_batch_norms_keep_their_statistics_and_learn_their_gains():
    spec = STUDENTS.get("timm:test_efficientnet@64+text:1x64").resized(embed_dim=128)
    pixels = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for fixed in (True, False):
        student = build_student(spec, 0)
        task = DistillTask(student, Objective("small-batch", 128, FACTS), FACTS, fixed_norms=fixed).train()
        norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
        before = [norm.running_mean.clone() for norm in norms]
        own = student.encode_image(pixels)
        alone = student.encode_image(pixels[:1])
        assert torch.allclose(own[:1], alone, atol=1e-5) == fixed  # another batch, the same image
        task(pixels, student.tokenize(CAPTIONS), {"t": IMAGE}, {"t": TEXT})["loss"].backward()
        assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True)) == fixed
        assert all(norm.weight.grad is not None for norm in norms)
        assert any(norm.training for norm in norms) != fixed
        task.eval()
        assert not any(norm.training for norm in norms)

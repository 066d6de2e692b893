"""Progressive stages: sizes between, and AdamW's moments that go on as if what is cut away had been masked."""

import copy

import pytest
import torch

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.apply import apply_plan
from students.inherit.planning import make_plan
from students.inherit.stages import grown, slice_moments
from students.inherit.towers.tower import tower_of_config
from students.spec import STUDENTS
from students.student import build_student

TEACHER, NANO = STUDENTS.get("rendered-teacher"), STUDENTS.get("nano")


def source_of(student):
    return ClipWeights(
        "t", student.spec.model_cfg, student.clip.state_dict(), "abc", student.vocabulary, model=student.clip
    )


@pytest.mark.parametrize(
    ("keep", "image", "text"), [(0.75, (4, 128, 480), (2, 96, 384)), (0.9, (4, 128, 576), (3, 128, 461))]
)
def test_a_stage_lies_between_the_source_and_the_student(keep, image, text):
    source = source_of(build_student(TEACHER, 0))
    spec = grown(NANO, source, keep)
    for which, sizes in (("visual", image), ("text", text)):
        tower = tower_of_config(spec.model_cfg, which)
        assert (tower.layers, tower.width, tower.ffn) == sizes
    plan = make_plan(source, build_student(spec, 0).spec.model_cfg, "magnitude", source.vocabulary)
    assert (plan.skipped, plan.across) == ({}, {})
    last = make_plan(
        source_of(build_student(spec, 0)), build_student(NANO, 0).spec.model_cfg, "magnitude", source.vocabulary
    )
    assert (last.skipped, last.across) == ({}, {})


def test_a_stage_that_is_no_larger_than_the_student_is_refused():
    with pytest.raises(UsageError, match="no larger than nano"):
        grown(NANO, source_of(build_student(TEACHER, 0)), 0.3)


def test_one_step_after_slicing_is_the_masked_step():
    """AdamW on the whole model with gradients that are zero where it is cut = AdamW on the cut one with sliced moments."""
    whole, small = build_student(TEACHER, 0), build_student(NANO, 1)
    source = source_of(whole)
    plan = make_plan(source, small.spec.model_cfg, "uniform", whole.vocabulary)
    generator = torch.Generator().manual_seed(0)
    options = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}
    names = [name for name, _ in whole.clip.named_parameters()]
    optimizer = torch.optim.AdamW(whole.clip.parameters(), **options)
    for _ in range(3):  # moments of some history
        for parameter in whole.clip.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    moments = {f"model.clip.{name}": optimizer.state[p] for name, p in zip(names, whole.clip.parameters(), strict=True)}
    moments["objective.log_scale"] = {
        "exp_avg": torch.ones(()),
        "exp_avg_sq": torch.ones(()),
        "step": torch.tensor(3.0),
    }
    small.clip.load_state_dict(apply_plan(plan, source_of(whole), small.spec.model_cfg))
    sliced = slice_moments(
        copy.deepcopy(moments), plan, source_of(whole), small.clip.state_dict(), small.spec.model_cfg
    )
    assert sliced["objective.log_scale"]["exp_avg"] == 1
    assert set(sliced) == {f"model.clip.{name}" for name, _ in small.clip.named_parameters()} | {"objective.log_scale"}

    gradients = {name: torch.randn(p.shape, generator=generator) for name, p in whole.clip.named_parameters()}
    as_source = ClipWeights("g", whole.spec.model_cfg, gradients, "abc", whole.vocabulary, model=whole.clip)
    cut = apply_plan(plan, as_source, small.spec.model_cfg)
    for name, parameter in whole.clip.named_parameters():
        parameter.grad = gradients[name]
    optimizer.step()
    other = torch.optim.AdamW(small.clip.parameters(), **options)
    for name, parameter in small.clip.named_parameters():
        parameter.grad = cut[name]
        other.state[parameter] = {key: value.clone() for key, value in sliced[f"model.clip.{name}"].items()}
    other.step()
    wanted = apply_plan(plan, source_of(whole), small.spec.model_cfg)
    for name, parameter in small.clip.named_parameters():
        assert torch.equal(parameter, wanted[name]), name

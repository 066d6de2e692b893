"""Repairs: means are kept, what kept inputs predict is predicted, a whole plan is left as it is."""

import copy
from dataclasses import replace

import pytest
import torch

from distill.core.clip.weights import ClipWeights
from students.inherit.apply import apply_plan
from students.inherit.calibration import Calibration
from students.inherit.planning import make_plan
from students.inherit.repairs.refit import repair
from students.inherit.start import Terms, start_from
from students.spec import STUDENTS
from students.student import build_student

TEACHER = STUDENTS.get("rendered-teacher")
PIXELS = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(1))
PAIRS = Calibration(PIXELS, ["a red circle"] * 24, lambda student: torch.zeros(()))
DOWN = "visual.transformer.resblocks.0.mlp.c_proj."


@pytest.fixture
def teacher():
    """With biases and gains that are no zeros and ones."""
    student = build_student(TEACHER, 0).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in student.clip.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return student


def source_of(student):
    return ClipWeights(
        "t", student.spec.model_cfg, student.clip.state_dict(), "abc", student.vocabulary,
        model=student.clip, normalise=student.normalised, tokenize=student.tokenize,
    )  # fmt: skip


def neurons_cut(source, kept):
    """A plan that takes all of the image tower but some neurons of its first layer."""
    plan = make_plan(source, source.model_cfg, "front", source.vocabulary)
    tower = plan.towers["visual"]
    return replace(plan, towers={"visual": replace(tower, ffn=[kept, *tower.ffn[1:]])})


def neurons(teacher):
    """[places, 640]: what the second linear layer of the first block's MLP reads."""
    seen = []
    hook = teacher.clip.visual.transformer.resblocks[0].mlp.gelu.register_forward_hook(
        lambda _, __, out: seen.append(out)
    )
    with torch.no_grad():
        teacher.encode_image(PIXELS)
    hook.remove()
    return seen[0].flatten(0, 1).double()


@pytest.mark.parametrize("how", ["bias", "least-squares"])
def test_the_mean_of_what_a_cut_layer_gives_is_kept(teacher, how):
    source, kept = source_of(teacher), list(range(0, 640, 2))
    plan = neurons_cut(source, kept)
    sliced = apply_plan(plan, source, source.model_cfg)
    mended = repair(how, plan, source, source.model_cfg, sliced, PAIRS)
    rows = neurons(teacher)
    wanted = rows.mean(0) @ source.state[DOWN + "weight"].double().T + source.state[DOWN + "bias"].double()
    got = rows[:, kept].mean(0) @ mended[DOWN + "weight"].double().T + mended[DOWN + "bias"].double()
    assert torch.allclose(got, wanted, atol=1e-5)
    assert not torch.allclose(
        rows[:, kept].mean(0) @ sliced[DOWN + "weight"].double().T + sliced[DOWN + "bias"], wanted, atol=1e-3
    )
    changed = {name for name in sliced if not torch.equal(sliced[name], mended[name])}
    assert changed == ({DOWN + "bias"} if how == "bias" else {DOWN + "bias", DOWN + "weight"})


def test_least_squares_is_the_minimum_of_its_ridge_objective(teacher):
    """At a minimum no small step lowers: squared error over the places, plus the ridge towards the sliced weights."""
    source, kept = source_of(teacher), list(range(0, 640, 4))
    plan = neurons_cut(source, kept)
    sliced = apply_plan(plan, source, source.model_cfg)
    mended = repair("least-squares", plan, source, source.model_cfg, sliced, PAIRS)
    rows = neurons(teacher)
    wanted = rows @ source.state[DOWN + "weight"].double().T + source.state[DOWN + "bias"].double()
    ridge = 1e-2 * rows[:, kept].var(0, unbiased=False).mean()

    def objective(weight, bias):
        error = (rows[:, kept] @ weight.T + bias - wanted).square().sum(1).mean()
        return error + ridge * (weight - sliced[DOWN + "weight"].double()).square().sum()

    weight = mended[DOWN + "weight"].double().requires_grad_()
    bias = mended[DOWN + "bias"].double().requires_grad_()
    least = objective(weight, bias)
    gradients = torch.autograd.grad(least, (weight, bias))
    before = objective(sliced[DOWN + "weight"].double(), sliced[DOWN + "bias"].double())
    assert least < before
    assert max(gradient.abs().max() for gradient in gradients) < 1e-4 * before


def test_neurons_that_others_predict_can_go_without_loss(teacher):
    state = teacher.clip.state_dict()
    up = "visual.transformer.resblocks.0.mlp.c_fc."
    for kind in ("weight", "bias"):
        state[up + kind][320:] = state[up + kind][:320]  # every neuron of the second half is one of the first
    source = source_of(teacher)
    plan = neurons_cut(source, list(range(320)))
    mended = repair("least-squares", plan, source, source.model_cfg, apply_plan(plan, source, source.model_cfg), PAIRS)
    rows = neurons(teacher)
    wanted = rows @ source.state[DOWN + "weight"].double().T + source.state[DOWN + "bias"].double()
    got = rows[:, :320] @ mended[DOWN + "weight"].double().T + mended[DOWN + "bias"].double()
    sliced = rows[:, :320] @ source.state[DOWN + "weight"][:, :320].double().T + source.state[DOWN + "bias"]
    assert (got - wanted).square().mean() < 0.01 * (sliced - wanted).square().mean()


def test_a_whole_plan_needs_no_repair(teacher):
    source = source_of(teacher)
    plan = make_plan(source, source.model_cfg, "uniform", source.vocabulary)
    sliced = apply_plan(plan, source, source.model_cfg)
    for how in ("bias", "least-squares"):
        mended = repair(how, plan, source, source.model_cfg, sliced, PAIRS)
        assert all(torch.equal(mended[name], sliced[name]) for name in sliced)


def test_a_repair_is_measured_and_kept_where_it_helps(teacher):
    nano = STUDENTS.get("nano")
    source = source_of(teacher)
    student = build_student(nano, 0)
    took = start_from(student, source, "magnitude", Terms(repair="auto", calibrate=lambda: PAIRS))
    plain = build_student(nano, 0)
    start_from(plain, source, "magnitude")
    image = took["repaired"]["visual"]
    better = image["repaired"] < image["sliced"]
    assert image["how"] == ("least-squares" if better else "none")
    name = "visual.transformer.resblocks.2.mlp.c_proj.weight"
    assert torch.equal(student.clip.state_dict()[name], plain.clip.state_dict()[name]) != better
    off = copy.deepcopy(plain)
    assert start_from(off, source, "magnitude", Terms(calibrate=lambda: PAIRS))["repaired"] == {}

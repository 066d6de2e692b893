"""Scores on calibration pairs: equal to sums taken by hand, and to the gradients of masks; planted parts are found."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from distill.core.clip.weights import ClipWeights
from students.inherit.calibration import Calibration
from students.inherit.planning import make_plan
from students.inherit.scoring.probe import contrastive, encode, opened, scan
from students.inherit.strategy import STRATEGIES
from students.inherit.towers.tower import tower_of
from students.spec import STUDENTS
from students.student import build_student

NANO = STUDENTS.get("nano")
SCORED = [name for name in STRATEGIES if STRATEGIES.get(name).needs_data]
PAIRS = Calibration(
    torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
    [
        "a red circle",
        "two blue squares above a star",
        "unseen words",
        "a",
        "one green star",
        "five red squares on a line",
    ],
    lambda student: torch.zeros(()),
)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """The learned strategy's masks get a few steps: its shapes are looked at here, its choice in test_search.py."""
    monkeypatch.setattr("students.inherit.scoring.search.STEPS", 2)


def source_of(student):
    return ClipWeights(
        "t", student.spec.model_cfg, student.clip.state_dict(), "abc", student.vocabulary,
        model=student.clip, normalise=student.normalised, tokenize=student.tokenize,
    )  # fmt: skip


@pytest.fixture
def source():
    return source_of(build_student(NANO, 0).eval())


def test_an_opened_source_gives_what_it_gave(source):
    before = [encode(source, PAIRS, which, slice(0, 6))[0] for which in ("visual", "text")]
    for which, wanted in zip(("visual", "text"), before, strict=True):
        with opened(source.model, tower_of(source, which)):
            got, _ = encode(source, PAIRS, which, slice(0, 6))
        assert torch.allclose(got, wanted, atol=1e-5)
        assert type(source.model.visual.transformer.resblocks[0].attn).__name__ == "MultiheadAttention"


def test_activations_are_those_of_the_model_itself(source):
    seen = {}
    block = source.model.transformer.resblocks[1]
    tokens = source.tokenize(PAIRS.captions)
    used = (torch.arange(32)[None] <= tokens.argmax(1)[:, None]).float()[:, :, None]  # up to the end token
    hooks = [
        block.mlp.gelu.register_forward_hook(lambda _, __, out: seen.update(ffn=out)),
        block.ln_1.register_forward_hook(lambda _, __, out: seen.update(norm=out)),
    ]
    with torch.no_grad():
        source.model.encode_text(tokens)
    for hook in hooks:
        hook.remove()
    found = scan(source, {"text": tower_of(source, "text")}, PAIRS)["text"]
    assert torch.allclose(found.channels["down", 1], (seen["ffn"] * used).abs().sum((0, 1)), rtol=1e-4)
    q, k, v = F.linear(seen["norm"], block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
    heads = []
    for head in range(2):
        part = slice(32 * head, 32 * head + 32)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / 32**0.5
        logits = logits.masked_fill(torch.ones(32, 32).triu(1).bool(), -torch.inf)
        heads.append(logits.softmax(-1) @ v[..., part])
    wanted = (torch.cat(heads, -1) * used).abs().sum((0, 1)).detach()
    assert torch.allclose(found.channels["out", 1], wanted, rtol=1e-3)
    assert torch.allclose(found.heads[1], wanted.view(2, 32).sum(1), rtol=1e-3)


def test_taylor_scores_are_the_gradients_of_masks(source):
    """The gradient of a mask of ones per sample and neuron is the loss's first-order change when the neuron goes."""
    masks = torch.ones(6, 1, 384, requires_grad=True)
    hook = source.model.visual.transformer.resblocks[2].mlp.gelu.register_forward_hook(lambda _, __, out: out * masks)
    given = {which: F.normalize(encode(source, PAIRS, which, slice(0, 6))[0], dim=1) for which in ("visual", "text")}
    contrastive(10.0)(given).backward()
    hook.remove()
    towers = {which: tower_of(source, which) for which in ("visual", "text")}
    found = scan(source, towers, PAIRS, contrastive(10.0))["visual"]
    wanted = masks.grad.abs().sum((0, 1))
    assert torch.allclose(found.channels["down", 2], wanted, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("strategy", ["activation", "taylor"])
def test_dead_heads_and_neurons_are_the_first_to_go(strategy):
    teacher = build_student(STUDENTS.get("rendered-teacher"), 0).eval()
    state = teacher.clip.state_dict()
    dead = [0, 3]
    for layer in range(5):
        block = f"visual.transformer.resblocks.{layer}."
        for part in ("weight", "bias"):
            state[block + f"attn.in_proj_{part}"].view(3, 5, 32, -1)[2, dead] = 0  # their values
            state[block + f"mlp.c_fc.{part}"][100:356] = 0  # gelu(0) = 0
    plan = make_plan(
        source_of(teacher), build_student(NANO, 0).spec.model_cfg, strategy, teacher.vocabulary, None, PAIRS
    )
    for heads, neurons in zip(plan.towers["visual"].heads, plan.towers["visual"].ffn, strict=True):
        assert heads == [1, 2, 4]
        assert neurons == [*range(100), *range(356, 640)]


@pytest.mark.parametrize("strategy", SCORED)
def test_a_source_without_a_logit_scale_of_its_own_is_scored_too(strategy, source):
    """Frozen towers, as of the sail teacher, have none."""
    bare = {name: value for name, value in source.state.items() if name != "logit_scale"}
    plan = make_plan(replace(source, state=bare), NANO.model_cfg, strategy, source.vocabulary, None, PAIRS)
    assert plan.skipped == {}


@pytest.mark.parametrize("strategy", SCORED)
def test_without_pairs_a_strategy_that_needs_them_says_so(strategy, source):
    from distill.core.errors import UsageError

    with pytest.raises(UsageError, match="scores on stored pairs"):
        make_plan(source, NANO.model_cfg, strategy, source.vocabulary)

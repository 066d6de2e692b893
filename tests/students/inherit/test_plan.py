"""Inheritance: identity at 100 %, slicing equals masking, composition, refusals."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from distill.core.clip.model import build_clip
from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.apply import apply_plan
from students.inherit.calibration import Calibration
from students.inherit.plan import compose, plan_of
from students.inherit.planning import make_plan
from students.inherit.strategy import STRATEGIES, evenly
from students.spec import STUDENTS, StudentSpec
from students.student import build_student

TEACHER = STUDENTS.get("rendered-teacher")
PIXELS = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
CAPTIONS = ["a red circle", "two blue squares above a star", "unseen words"]
PAIRS = Calibration(PIXELS, CAPTIONS, lambda student: torch.zeros(()))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """The learned strategy's masks get a few steps: its shapes are looked at here, its choice in test_search.py."""
    monkeypatch.setattr("students.inherit.scoring.search.STEPS", 2)


def source_of(student, name="t"):
    return ClipWeights(
        name, student.spec.model_cfg, student.clip.state_dict(), "abc", "v",
        model=student.clip, normalise=student.normalised, tokenize=student.tokenize,
    )  # fmt: skip


def small(width=96, layers=3, text_width=64, text_layers=2) -> StudentSpec:
    cfg = copy.deepcopy(TEACHER.model_cfg)
    cfg["vision_cfg"] |= {"width": width, "layers": layers}
    cfg["text_cfg"] |= {"width": text_width, "heads": text_width // 32, "layers": text_layers}
    return StudentSpec("s", cfg, mean=TEACHER.mean, std=TEACHER.std, vocabulary="rendered")


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_full_plan_reproduces_the_source(strategy):
    teacher, student = build_student(TEACHER, 0).eval(), build_student(TEACHER, 1).eval()
    plan = make_plan(source_of(teacher), student.spec.model_cfg, strategy, "v", calibration=PAIRS)
    state = apply_plan(plan, source_of(teacher), student.spec.model_cfg)
    student.clip.load_state_dict(state)  # strict: nothing is left random
    with torch.no_grad():
        assert torch.allclose(student.encode_image(PIXELS), teacher.encode_image(PIXELS), atol=1e-6)
        tokens = teacher.tokenize(CAPTIONS)
        assert torch.allclose(student.encode_text(tokens), teacher.encode_text(tokens), atol=1e-6)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_fills_a_regular_smaller_student(strategy):
    teacher, student = build_student(TEACHER, 0), build_student(small(), 1)
    plan = make_plan(source_of(teacher), student.spec.model_cfg, strategy, "v", calibration=PAIRS)
    state = apply_plan(plan, source_of(teacher), student.spec.model_cfg)
    student.clip.load_state_dict(state)
    assert not plan.skipped
    for tower in plan.towers.values():
        assert tower.hidden == sorted(set(tower.hidden))
        assert len({len(kept) for kept in tower.heads}) == len({len(kept) for kept in tower.ffn}) == 1


def test_slicing_heads_and_neurons_equals_masking_them_in_the_source():
    teacher = build_student(TEACHER, 0).eval()
    source = source_of(teacher)
    cfg = copy.deepcopy(teacher.spec.model_cfg)
    plan = make_plan(source, cfg, "front", "v")
    tower = plan.towers["visual"]
    # Keep every channel of the residual stream; layer 1 loses all its heads, layer 3 all its neurons.
    heads = [[0, 2, 4], [], [1], [0, 1, 2, 3, 4], [3]]
    neurons = [list(range(0, 640, 2)), list(range(640)), [5], [], list(range(100))]
    plan = replace(plan, towers={"visual": replace(tower, heads=heads, ffn=neurons)})
    masked = copy.deepcopy(teacher.clip.state_dict())
    for layer in range(5):
        block = f"visual.transformer.resblocks.{layer}."
        gone = [c for c in range(160) if c // 32 not in heads[layer]]
        masked[block + "attn.out_proj.weight"][:, gone] = 0
        masked[block + "mlp.c_proj.weight"][:, [n for n in range(640) if n not in neurons[layer]]] = 0
        for name in ("attn.out_proj.bias", "mlp.c_proj.bias"):  # they stay, also where everything before them is gone
            masked[block + name].copy_(torch.linspace(-1, 1, 160))
    source = ClipWeights("t", teacher.spec.model_cfg, masked, "abc", "v")
    sliced = apply_plan(plan, source, cfg)
    teacher.clip.load_state_dict(masked)
    x = torch.randn(2, 65, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = teacher.clip.visual.transformer(x)
        assert torch.allclose(_transformer_by_hand(sliced, x), expected, atol=1e-5)


def _transformer_by_hand(state, x):
    """The pre-norm transformer written out, so that head count and width need not agree."""
    from torch.nn import functional as F

    for layer in range(5):
        s = {
            k.split(f"resblocks.{layer}.")[1]: v
            for k, v in state.items()
            if f"visual.transformer.resblocks.{layer}." in k
        }
        y = F.layer_norm(x, (160,), s["ln_1.weight"], s["ln_1.bias"])
        q, k, v = (y @ s["attn.in_proj_weight"].T + s["attn.in_proj_bias"]).chunk(3, -1)
        q, k, v = (t.reshape(*t.shape[:2], t.shape[2] // 32, 32).transpose(1, 2) for t in (q, k, v))
        a = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1) @ v
        x = x + a.transpose(1, 2).flatten(2) @ s["attn.out_proj.weight"].T + s["attn.out_proj.bias"]
        y = F.layer_norm(x, (160,), s["ln_2.weight"], s["ln_2.bias"])
        y = F.gelu(y @ s["mlp.c_fc.weight"].T + s["mlp.c_fc.bias"])
        x = x + y @ s["mlp.c_proj.weight"].T + s["mlp.c_proj.bias"]
    return x


def test_two_steps_equal_one_composed_step():
    teacher = build_student(TEACHER, 0)
    middle, last = build_student(small(128, 4, 96, 3), 1), build_student(small(), 2)
    first = make_plan(source_of(teacher), middle.spec.model_cfg, "uniform", "v")
    middle.clip.load_state_dict(apply_plan(first, source_of(teacher), middle.spec.model_cfg))
    second = make_plan(source_of(middle), last.spec.model_cfg, "uniform", "v")
    by_steps = apply_plan(second, source_of(middle), last.spec.model_cfg)
    direct = plan_of(json.loads(json.dumps(compose(first, second).to_json())))
    at_once = apply_plan(direct, source_of(teacher), last.spec.model_cfg)
    assert by_steps.keys() == at_once.keys()
    assert all(torch.equal(by_steps[name], at_once[name]) for name in by_steps)


def test_magnitude_keeps_the_planted_heads_and_neurons():
    teacher = build_student(TEACHER, 0)
    state = teacher.clip.state_dict()
    block = "visual.transformer.resblocks.0."
    state[block + "attn.in_proj_weight"].view(3, 5, 32, 160)[:, [1, 3, 4]] *= 10
    state[block + "mlp.c_fc.weight"][100:484] *= 10
    plan = make_plan(source_of(teacher), build_student(small(), 0).spec.model_cfg, "magnitude", "v")
    assert plan.towers["visual"].heads[0] == [1, 3, 4]
    assert plan.towers["visual"].ffn[0] == list(range(100, 484))


def test_uniform_keeps_both_ends():
    assert evenly(12, 6) == [0, 2, 4, 7, 9, 11]
    assert evenly(12, 9)[-1] == 11


@pytest.mark.parametrize(
    ("change", "tower", "word"),
    [
        ({"vision_cfg": {"width": 192}}, "visual", "grows"),
        ({"vision_cfg": {"layers": 9}}, "visual", "layers grows from 5 to 9"),
        ({"vision_cfg": {"timm_model_name": "fastvit_mci0"}}, "visual", "not a plain transformer"),
    ],
)
def test_a_tower_that_no_selection_makes_is_left_alone_with_the_reason(change, tower, word):
    teacher = build_student(TEACHER, 0)
    cfg = copy.deepcopy(small().model_cfg)
    for key, value in change.items():
        cfg[key] = {**cfg[key], **value}
    plan = make_plan(source_of(teacher), cfg, "uniform", "v")
    assert word in plan.skipped[tower]
    assert tower not in plan.towers


@pytest.mark.parametrize(
    ("change", "tower", "fact", "words"),
    [
        ({"quick_gelu": True}, "visual", "activation", "gelu in the source, quick_gelu here"),
        ({"text_cfg": {"no_causal_mask": True}}, "text", "causal", "True in the source, False here"),
        ({"vision_cfg": {"patch_size": 16}}, "visual", "patch_size", "8 in the source, 16 here"),
        ({"vision_cfg": {"image_size": 96}}, "visual", "image_size", "8 x 8 patches in the source, 12 x 12"),
        ({"vision_cfg": {"head_width": 16, "width": 64}}, "visual", "head_width", "32 in the source, 16 here"),
        ({"text_cfg": {"context_length": 40}}, "text", "context_length", "32 in the source, 40 here"),
        ({"text_cfg": {"pool_type": "last"}}, "text", "pooling", "end in the source, last here"),
    ],
)
def test_what_differs_in_kind_is_planned_and_said(change, tower, fact, words):
    teacher = build_student(TEACHER, 0)
    cfg = copy.deepcopy(small().model_cfg)
    for key, value in change.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) else value
    plan = make_plan(source_of(teacher), cfg, "uniform", "v")
    assert words in plan.across[tower][fact]
    assert tower in plan.towers
    state = apply_plan(plan, source_of(teacher), cfg, build_clip(cfg, seed=0).state_dict())
    assert build_clip(cfg, seed=0).load_state_dict(state, strict=False).unexpected_keys == []


def test_the_embedding_is_cut_by_one_list_in_both_towers_or_left_for_a_projection():
    teacher = build_student(TEACHER, 0)
    cfg = {**build_student(small(), 0).spec.model_cfg, "embed_dim": 64}
    plan = make_plan(source_of(teacher), cfg, "magnitude", "v")
    assert plan.across == {}
    assert plan.skipped == {}
    assert plan.towers["visual"].embed == plan.towers["text"].embed
    norms = sum(teacher.clip.state_dict()[name].square().sum(0) for name in ("visual.proj", "text_projection"))
    assert set(plan.towers["text"].embed) == set(norms.topk(64).indices.tolist())
    wide = make_plan(source_of(teacher), {**cfg, "embed_dim": 256}, "magnitude", "v")
    assert wide.towers["visual"].embed is wide.towers["text"].embed is None
    assert "visual.proj" not in apply_plan(wide, source_of(teacher), {**cfg, "embed_dim": 256})


def test_a_plan_of_other_weights_is_refused():
    teacher = build_student(TEACHER, 0)
    plan = make_plan(source_of(teacher), small().model_cfg, "uniform", "v")
    other = ClipWeights("t", teacher.spec.model_cfg, teacher.clip.state_dict(), "def", "v")
    with pytest.raises(UsageError, match="other weights"):
        apply_plan(plan, other, small().model_cfg)


def test_the_terms_of_inherited_weights_travel():
    from distill.stages.train import with_inherited_licence
    from students.inherit.start import start_from

    student = build_student(STUDENTS.get("nano"), 0)
    origin = ClipWeights(
        "origin", student.spec.model_cfg, student.clip.state_dict(), "0", student.vocabulary, "RESEARCH ONLY"
    )
    took = start_from(build_student(STUDENTS.get("nano"), 1), origin, "copy")
    assert with_inherited_licence("Apache-2.0", took) == "Apache-2.0; weights inherited from origin: RESEARCH ONLY"
    assert with_inherited_licence("", took) == "weights inherited from origin: RESEARCH ONLY"
    assert with_inherited_licence("teachers: RESEARCH ONLY", took) == "teachers: RESEARCH ONLY"  # said already
    assert with_inherited_licence("Apache-2.0", {**took, "towers": []}) == "Apache-2.0"  # nothing was taken
    assert with_inherited_licence("Apache-2.0", {"strategy": "none", "towers": [], "skipped": {}}) == "Apache-2.0"

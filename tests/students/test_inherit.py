"""Inheritance: identity at 100 %, slicing equals masking, composition, refusals."""

import copy

import pytest
import torch

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.apply import apply_plan
from students.inherit.plan import make_plan
from students.inherit.strategy import STRATEGIES, evenly
from students.spec import STUDENTS, StudentSpec
from students.student import build_student

TEACHER = STUDENTS.get("rendered-teacher")
PIXELS = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
CAPTIONS = ["a red circle", "two blue squares above a star", "unseen words"]


def source_of(student, name="t"):
    return ClipWeights(name, student.spec.model_cfg, student.clip.state_dict(), "abc", "v")


def small(width=96, layers=3, text_width=64, text_layers=2) -> StudentSpec:
    cfg = copy.deepcopy(TEACHER.model_cfg)
    cfg["vision_cfg"] |= {"width": width, "layers": layers}
    cfg["text_cfg"] |= {"width": text_width, "heads": text_width // 32, "layers": text_layers}
    return StudentSpec("s", cfg, mean=TEACHER.mean, std=TEACHER.std, vocabulary="rendered")


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_full_plan_reproduces_the_source(strategy):
    teacher, student = build_student(TEACHER, 0).eval(), build_student(TEACHER, 1).eval()
    plan = make_plan(source_of(teacher), student.spec.model_cfg, strategy, "v")
    state = apply_plan(plan, source_of(teacher), student.spec.model_cfg)
    student.clip.load_state_dict(state)  # strict: nothing is left random
    with torch.no_grad():
        assert torch.allclose(student.encode_image(PIXELS), teacher.encode_image(PIXELS), atol=1e-6)
        tokens = teacher.tokenize(CAPTIONS)
        assert torch.allclose(student.encode_text(tokens), teacher.encode_text(tokens), atol=1e-6)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_fills_a_regular_smaller_student(strategy):
    teacher, student = build_student(TEACHER, 0), build_student(small(), 1)
    plan = make_plan(source_of(teacher), student.spec.model_cfg, strategy, "v")
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
    # Keep every channel of the residual stream, but only heads 0, 2, 4 and every second neuron.
    kept_heads, kept_ffn = [0, 2, 4], list(range(0, 640, 2))
    object.__setattr__(tower, "heads", [kept_heads] * 5)
    object.__setattr__(tower, "ffn", [kept_ffn] * 5)
    sliced = apply_plan(plan, source, cfg)
    masked = copy.deepcopy(teacher.clip.state_dict())
    gone = torch.tensor([c for c in range(160) if c // 32 not in kept_heads])
    for layer in range(5):
        block = f"visual.transformer.resblocks.{layer}."
        masked[block + "attn.out_proj.weight"][:, gone] = 0
        masked[block + "mlp.c_proj.weight"][:, 1::2] = 0
    teacher.clip.load_state_dict(masked)
    x = torch.randn(2, 65, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = teacher.clip.visual.transformer(x)
        assert torch.allclose(_transformer_by_hand(sliced, x, heads=3), expected, atol=1e-5)


def _transformer_by_hand(state, x, heads):
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
        q, k, v = (t.unflatten(-1, (heads, 32)).transpose(1, 2) for t in (q, k, v))
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
    direct = make_plan(source_of(teacher), last.spec.model_cfg, "uniform", "v")
    for tower, plan in direct.towers.items():
        a, b = first.towers[tower], second.towers[tower]
        object.__setattr__(plan, "layers", [a.layers[i] for i in b.layers])
        object.__setattr__(plan, "hidden", [a.hidden[i] for i in b.hidden])
        object.__setattr__(
            plan, "heads", [[a.heads[i][h] for h in kept] for i, kept in zip(b.layers, b.heads, strict=True)]
        )
        object.__setattr__(plan, "ffn", [[a.ffn[i][n] for n in kept] for i, kept in zip(b.layers, b.ffn, strict=True)])
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
        ({"quick_gelu": True}, "visual", "quick gelu"),
        ({"text_cfg": {"no_causal_mask": True}}, "text", "causal"),
        ({"vision_cfg": {"patch_size": 16}}, "visual", "patch size"),
        ({"vision_cfg": {"width": 192}}, "visual", "grows"),
        ({"vision_cfg": {"timm_model_name": "fastvit_mci0"}}, "visual", "not a plain transformer"),
        ({"embed_dim": 64}, "text", "embed dim"),
    ],
)
def test_a_tower_of_another_kind_is_left_alone_with_the_reason(change, tower, word):
    teacher = build_student(TEACHER, 0)
    cfg = copy.deepcopy(small().model_cfg)
    for key, value in change.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) else value
    plan = make_plan(source_of(teacher), cfg, "uniform", "v")
    assert word in plan.skipped[tower]


def test_another_vocabulary_and_other_weights_are_refused():
    teacher = build_student(TEACHER, 0)
    plan = make_plan(source_of(teacher), small().model_cfg, "uniform", "other")
    assert plan.skipped == {"text": "the vocabulary differs"}
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

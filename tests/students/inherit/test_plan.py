"""Inheritance: identity at 100 %, slicing equals masking, composition, refusals."""

import copy
import itertools
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


def _transformer_by_hand(state, x, kept=slice(None)):
    """The pre-norm transformer written out, so that head count and width need not agree; only the channels `kept` are read."""
    from torch.nn import functional as F

    def norm(x, name):
        y = torch.zeros_like(x)
        read = x[..., kept]
        y[..., kept] = F.layer_norm(read, read.shape[-1:], s[f"{name}.weight"][kept], s[f"{name}.bias"][kept])
        return y

    def added(x, y):
        x = x.clone()
        x[..., kept] += y[..., kept]
        return x

    for layer in range(5):
        s = {
            k.split(f"resblocks.{layer}.")[1]: v
            for k, v in state.items()
            if f"visual.transformer.resblocks.{layer}." in k
        }
        y = norm(x, "ln_1")
        q, k, v = (y @ s["attn.in_proj_weight"].T + s["attn.in_proj_bias"]).chunk(3, -1)
        q, k, v = (t.reshape(*t.shape[:2], t.shape[2] // 32, 32).transpose(1, 2) for t in (q, k, v))
        a = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1) @ v
        x = added(x, a.transpose(1, 2).flatten(2) @ s["attn.out_proj.weight"].T + s["attn.out_proj.bias"])
        y = F.gelu(norm(x, "ln_2") @ s["mlp.c_fc.weight"].T + s["mlp.c_fc.bias"])
        x = added(x, y @ s["mlp.c_proj.weight"].T + s["mlp.c_proj.bias"])
    return x


def test_slicing_channels_equals_masking_them_with_norms_over_the_kept_ones():
    teacher = build_student(TEACHER, 0).eval()
    source, kept = source_of(teacher), list(range(1, 160, 2))
    plan = make_plan(source, teacher.spec.model_cfg, "front", "v")
    plan = replace(plan, towers={"visual": replace(plan.towers["visual"], hidden=kept)})
    sliced = apply_plan(plan, source, teacher.spec.model_cfg)
    x = torch.randn(2, 9, 160, generator=torch.Generator().manual_seed(0))
    masked = torch.zeros_like(x)
    masked[..., kept] = x[..., kept]
    expected = _transformer_by_hand(teacher.clip.state_dict(), masked, kept)[..., kept]
    assert torch.allclose(_transformer_by_hand(sliced, x[..., kept]), expected, atol=1e-5)


def test_a_permuted_plan_gives_the_same_model_and_permuted_slices():
    teacher, student = build_student(TEACHER, 0).eval(), build_student(TEACHER, 1).eval()
    source, cfg = source_of(teacher), teacher.spec.model_cfg
    generator = torch.Generator().manual_seed(5)

    def shuffled(indices):
        return [indices[i] for i in torch.randperm(len(indices), generator=generator).tolist()]

    whole = make_plan(source, cfg, "front", "v")
    towers = {
        name: replace(
            tower,
            hidden=shuffled(tower.hidden),
            heads=[shuffled(h) for h in tower.heads],
            ffn=[shuffled(n) for n in tower.ffn],
        )
        for name, tower in whole.towers.items()
    }
    mixed = replace(whole, towers=towers)
    student.clip.load_state_dict(apply_plan(mixed, source, cfg))
    tokens = teacher.tokenize(CAPTIONS)
    with torch.no_grad():
        assert torch.allclose(student.encode_image(PIXELS), teacher.encode_image(PIXELS), atol=1e-5)
        assert torch.allclose(student.encode_text(tokens), teacher.encode_text(tokens), atol=1e-5)
    # Slicing the permuted model is slicing the source by permuted indices.
    smaller = build_student(small(), 0).spec.model_cfg
    second = make_plan(source_of(student), smaller, "uniform", "v")
    again = apply_plan(second, source_of(student), smaller)
    direct = apply_plan(compose(mixed, second), source, smaller)
    assert all(torch.equal(again[name], direct[name]) for name in again)


def test_front_is_what_tinyclip_s_code_does_on_a_pair():
    """Every tensor its first rows and columns, attention viewed as (3, heads, head width, channels), layers at a whole stride."""
    teacher, own = build_student(TEACHER, 0), build_student(small(layers=2), 1)
    source = source_of(teacher)
    got = apply_plan(make_plan(source, own.spec.model_cfg, "front", "v"), source, own.spec.model_cfg)
    for name, value in got.items():
        if name == "logit_scale":
            continue
        parts = name.split(".")
        if "resblocks" in parts:
            at = parts.index("resblocks") + 1
            parts[at] = str(int(parts[at]) * ((5 // 2) if name.startswith("visual") else (3 // 2)))
        old = source.state[".".join(parts)]
        if "in_proj" in name:
            width = old.shape[0] // 3
            seen = old.view(3, width // 32, 32, *old.shape[1:])[:, : value.shape[0] // 96]
            wanted = (seen if old.ndim == 1 else seen[..., : value.shape[1]]).reshape(value.shape)
        else:
            wanted = old[tuple(slice(size) for size in value.shape)]
        assert torch.equal(value, wanted), name
    assert STRATEGIES.get("front")().layers(12, 9) == list(range(9))  # as released: the first nine
    assert STRATEGIES.get("front")().layers(12, 6) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("front", "learned")])
def test_depth_keeps_both_ends_and_rises(name):
    for before in range(2, 33):
        for after in range(2, before + 1):
            kept = STRATEGIES.get(name)().layers(before, after)
            assert (kept[0], kept[-1], len(kept)) == (0, before - 1, after)
            assert all(a < b for a, b in itertools.pairwise(kept))


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

"""Narrower heads by factors: exact where the source's products have no more rank, and never worse than any choice of channels."""

import copy

import torch

from distill.core.clip.model import build_clip
from distill.core.clip.weights import ClipWeights
from students.inherit.apply import apply_plan
from students.inherit.plan import plan_of
from students.inherit.planning import make_plan
from students.inherit.towers.factors import factorise

WIDE = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 2, "layers": 2},
}
GENERATOR = torch.Generator().manual_seed(0)


def source():
    model = build_clip(WIDE, seed=0).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=GENERATOR))
    return model


def test_factors_are_the_best_of_their_rank():
    left, right = torch.randn(12, 40, generator=GENERATOR), torch.randn(12, 30, generator=GENERATOR)
    a, b = factorise(left, right, 5)
    singular = torch.linalg.svdvals((left.T @ right).double())
    error = (left.T @ right).double() - a.T @ b
    assert torch.allclose(error.norm(), singular[5:].norm(), rtol=1e-6)  # Eckart and Young
    a, b = factorise(left, right, 12)
    assert torch.allclose(a.T @ b, (left.T @ right).double(), atol=1e-6)


def heads_of(model, cfg):
    """Per head of the first image block: queries' products with keys over the root of the width, and out of the values."""
    state, width = model.state_dict(), cfg["vision_cfg"]["head_width"]
    block = "visual.transformer.resblocks.0.attn."
    q, k, v = state[block + "in_proj_weight"].chunk(3)
    out = state[block + "out_proj.weight"]
    heads = [slice(i, i + width) for i in range(0, len(q), width)]
    return [(q[h].T @ k[h] / width**0.5, out[:, h] @ v[h]) for h in heads]


def test_a_head_whose_products_have_low_rank_is_kept_exactly():
    model = source()
    state = model.state_dict()
    for layer in range(2):  # mix 16 channels into 32 by an orthogonal matrix: no choice of channels finds them
        block = f"visual.transformer.resblocks.{layer}.attn."
        for head in range(2):
            rows = slice(32 * head, 32 * head + 32)
            turn = torch.linalg.qr(torch.randn(32, 32, generator=GENERATOR)).Q
            for part in range(3):
                own = slice(64 * part + rows.start, 64 * part + rows.stop)
                for name in ("in_proj_weight", "in_proj_bias"):
                    state[block + name][own][16:] = 0
                    state[block + name][own] = turn @ state[block + name][own]
    narrow = copy.deepcopy(WIDE)
    narrow["vision_cfg"] |= {"head_width": 16, "width": 32}
    weights = ClipWeights("t", WIDE, state, "abc", "v", model=model)
    plan = make_plan(weights, narrow, "low-rank", "v")
    assert plan.towers["visual"].factors
    assert plan.towers["visual"].channels is None
    student = build_clip(narrow, seed=1).eval()
    student.load_state_dict(apply_plan(plan_of(plan.to_json()), weights, narrow))
    hidden = torch.tensor(plan.towers["visual"].hidden)
    for (scores, values), (wanted_scores, wanted_values) in zip(
        heads_of(student, narrow), heads_of(model, WIDE), strict=True
    ):
        assert torch.allclose(scores, wanted_scores[hidden][:, hidden], atol=1e-5)
        assert torch.allclose(values, wanted_values[hidden][:, hidden], atol=1e-5)


def test_factors_are_nearer_than_chosen_channels():
    model = source()
    weights = ClipWeights("t", WIDE, model.state_dict(), "abc", "v", model=model)
    narrow = copy.deepcopy(WIDE)
    narrow["vision_cfg"] |= {"head_width": 16, "width": 32}
    errors = {}
    for strategy in ("low-rank", "magnitude"):
        plan = make_plan(weights, narrow, strategy, "v")
        student = build_clip(narrow, seed=1).eval()
        student.load_state_dict(apply_plan(plan, weights, narrow))
        hidden = torch.tensor(plan.towers["visual"].hidden)
        pairs = zip(heads_of(student, narrow), heads_of(model, WIDE), strict=True)
        errors[strategy] = sum(
            float((got - wanted[hidden][:, hidden]).square().sum())
            for own, theirs in pairs
            for got, wanted in zip(own, theirs, strict=True)
        )
    assert errors["low-rank"] < 0.7 * errors["magnitude"]

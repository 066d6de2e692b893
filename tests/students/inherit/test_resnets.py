"""ResNets of CLIP's kind: a whole plan is the source, slicing is masking, plans compose, every strategy gives regular shapes."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from distill.core.clip.model import build_clip
from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.apply import apply_plan
from students.inherit.calibration import Calibration
from students.inherit.plan import compose, plan_of
from students.inherit.planning import make_plan
from students.inherit.repairs.refit import repair
from students.inherit.resnets.scoring import opened_resnet
from students.inherit.resnets.tower import resnet_of
from students.inherit.scoring.probe import contrastive, encode, scan
from students.inherit.scoring.search import ResNetMasks, learn_masks
from students.inherit.stages import grown, slice_moments
from students.inherit.strategy import STRATEGIES
from students.inherit.towers.tower import skeleton
from students.spec import STUDENTS, StudentSpec
from tests.students.inherit.random_models import model_of

TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 2, "layers": 2}
CFG = {"embed_dim": 48, "vision_cfg": {"image_size": 64, "layers": [1, 2, 3, 2], "width": 8}, "text_cfg": TEXT}
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 4},
    "text_cfg": {**TEXT, "width": 32, "heads": 1, "layers": 1},
}
PIXELS = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def tokens_of(captions):
    generator = torch.Generator().manual_seed(len(captions))
    tokens = torch.randint(1, 98, (len(captions), 16), generator=generator)
    tokens[:, 9], tokens[:, 10:] = 99, 0
    return tokens


PAIRS = Calibration(PIXELS, ["x"] * 6, lambda student: torch.zeros(()))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr("students.inherit.scoring.search.STEPS", 2)


def source_of(model, cfg=CFG):
    return ClipWeights(
        "t", cfg, model.state_dict(), "abc", "v", model=model, normalise=lambda x: 2 * x - 1, tokenize=tokens_of
    )


def images(model):
    with torch.no_grad():
        return model.encode_image(2 * PIXELS - 1)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_whole_plan_reproduces_the_source(strategy):
    teacher, student = model_of(CFG, 0), model_of(CFG, 1)
    plan = make_plan(source_of(teacher), CFG, strategy, "v", calibration=PAIRS)
    assert (plan.skipped, plan.across) == ({}, {})
    student.load_state_dict(apply_plan(plan, source_of(teacher), CFG))  # strict: nothing is left random
    assert torch.allclose(images(student), images(teacher), atol=1e-6)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_fills_a_regular_smaller_student(strategy):
    teacher = model_of(CFG, 0)
    plan = make_plan(source_of(teacher), SMALL, strategy, "v", calibration=PAIRS)
    student = build_clip(SMALL, seed=1)
    student.load_state_dict(apply_plan(plan, source_of(teacher), SMALL))
    tower = plan.towers["visual"]
    assert [len(kept) for kept in tower.blocks] == [1, 1, 2, 1]
    assert tower.embed == plan.towers["text"].embed
    assert all(kept == sorted(set(kept)) for kept in tower.cuts.values())


def test_slicing_equals_masking():
    """Channels of every axis, heads and blocks that are left out, and the same silenced in the source."""
    teacher = model_of(CFG, 0)
    plan = make_plan(source_of(teacher), SMALL, "uniform", "v")
    student = model_of(SMALL, 1)
    student.load_state_dict(apply_plan(plan, source_of(teacher), SMALL))
    masked, tower, old = copy.deepcopy(teacher), plan.towers["visual"], resnet_of(source_of(teacher))
    kept = {tower.source_axis(axis): indices for axis, indices in tower.cuts.items()}
    visual = masked.visual
    with torch.no_grad():
        silence(visual.bn1, kept["stem.1"])
        silence(visual.bn2, kept["stem.2"])
        silence(visual.bn3, kept["stem"])
        for stage, number in old.blocks():
            block = visual.get_submodule(f"layer{stage}.{number}")
            if number not in tower.blocks[stage - 1]:
                silence(block.bn3, [])  # it adds nothing, and what it is given is not negative
                continue
            silence(block.bn1, kept[f"layer{stage}.{number}.1"])
            silence(block.bn2, kept[f"layer{stage}.{number}.2"])
            silence(block.bn3, kept[f"layer{stage}"])
            if block.downsample is not None:
                silence(block.downsample[2], kept[f"layer{stage}"])
        gone = [i for i in range(256) if i not in kept["layer4"]]
        visual.attnpool.positional_embedding[:, gone] = 0
        visual.attnpool.c_proj.weight[:, [c for c in range(256) if c // 64 not in kept["heads"]]] = 0
    assert torch.allclose(images(student), images(masked)[:, tower.embed], atol=1e-5)


def silence(norm, kept):
    gone = [i for i in range(len(norm.weight)) if i not in kept]
    norm.weight[gone] = 0
    norm.bias[gone] = 0


def test_two_plans_in_a_row_are_one_plan():
    middle_cfg = {**CFG, "embed_dim": 40, "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 2], "width": 6}}
    teacher, middle = model_of(CFG, 0), model_of(middle_cfg, 1)
    first = make_plan(source_of(teacher), middle_cfg, "uniform", "v")
    middle.load_state_dict(apply_plan(first, source_of(teacher), middle_cfg))
    second = make_plan(source_of(middle, middle_cfg), SMALL, "magnitude", "v")
    by_steps = apply_plan(second, source_of(middle, middle_cfg), SMALL)
    direct = plan_of(json.loads(json.dumps(compose(first, second).to_json())))
    at_once = apply_plan(direct, source_of(teacher), SMALL)
    assert by_steps.keys() == at_once.keys()
    assert all(torch.equal(by_steps[name], at_once[name]) for name in by_steps)


def test_a_permuted_plan_gives_the_same_model():
    teacher, student = model_of(CFG, 0), model_of(CFG, 1)
    plan, generator = make_plan(source_of(teacher), CFG, "front", "v"), torch.Generator().manual_seed(5)
    tower = plan.towers["visual"]
    cuts = {
        axis: [kept[i] for i in torch.randperm(len(kept), generator=generator)]
        for axis, kept in tower.cuts.items()
    }  # fmt: skip
    mixed = replace(plan, towers={**plan.towers, "visual": replace(tower, cuts=cuts)})
    student.load_state_dict(apply_plan(mixed, source_of(teacher), CFG))
    assert torch.allclose(images(student), images(teacher), atol=1e-5)


def test_an_opened_pool_gives_what_it_gave():
    model = model_of(CFG, 0)
    before = images(model)
    with opened_resnet(model):
        assert torch.allclose(images(model), before, atol=1e-6)
    assert type(model.visual.attnpool).__name__ == "AttentionPool2d"


def test_taylor_scores_are_the_gradients_of_masks():
    """The gradient of a mask of ones per sample and channel is the loss's first-order change when the channel goes."""
    model = model_of(CFG, 0)
    source, masks = source_of(model), torch.ones(6, 32, 1, 1, requires_grad=True)
    hook = model.visual.layer3[1].act2.register_forward_hook(lambda _, __, out: out * masks)
    given = {
        which: nn.functional.normalize(encode(source, PAIRS, which, slice(0, 6))[0], dim=1)
        for which in ("visual", "text")
    }
    contrastive(10.0)(given).backward()
    hook.remove()
    found = scan(source, {"visual": resnet_of(source), "text": None}, PAIRS, contrastive(10.0))["visual"]
    wanted = masks.grad.abs().sum((0, 2, 3))
    assert torch.allclose(found.channels["layer3.1.2", -1], wanted, rtol=1e-3, atol=1e-8)


def planted():
    """A source of which every second inner channel of a block, and every head but two, gives nothing."""
    model = model_of(CFG, 0)
    with torch.no_grad():
        for _, block in model.visual.layer3.named_children():
            for norm in (block.bn1, block.bn2):
                norm.weight.mul_(0.01)
                norm.bias.add_(1)  # no other channel is silent
                norm.weight[::2] = norm.bias[::2] = 0
            block.bn3.weight.add_(1)
        for part in (model.visual.attnpool.v_proj.weight, model.visual.attnpool.v_proj.bias):
            part.view(4, 64, -1)[[0, 3]] = 0
        model.visual.attnpool.c_proj.weight.view(48, 4, 64)[:, [0, 3]] *= 0.1
    return model


@pytest.mark.parametrize("strategy", ["magnitude", "activation", "taylor"])
def test_dead_channels_and_heads_are_the_first_to_go(strategy):
    plan = make_plan(source_of(planted()), SMALL, strategy, "v", calibration=PAIRS)
    cuts = plan.towers["visual"].cuts
    assert cuts["heads"] == [1, 2]
    if strategy == "magnitude":  # the filters that read them still count
        return
    for block in range(2):
        assert cuts[f"layer3.{block}.1"] == cuts[f"layer3.{block}.2"] == list(range(1, 32, 2))


def test_masks_end_near_the_student_s_shares_and_drop_what_does_nothing():
    source = source_of(planted())
    old, new = resnet_of(source), resnet_of(source_of(build_clip(SMALL, seed=0), SMALL))
    found = learn_masks(source, {"visual": (old, new)}, PAIRS, steps=40)["visual"]
    masks = ResNetMasks(old, new)
    for axis, value in found.items():
        masks.mask(axis).log_alpha.data.copy_(value)
    off = (masks.kept() - masks.target).abs()
    assert off.mean() < 0.15
    kept = torch.cat([found[f"layer3.{block}.{part}"].topk(16).indices for block in range(3) for part in (1, 2)])
    assert (kept % 2 == 1).float().mean() > 0.6  # half would be chance


def test_a_repair_measures_the_statistics_of_normalisations_again():
    """Behind its own statistics a channel has the mean beta and the deviation gamma, whatever was cut before it."""
    teacher, student = model_of(CFG, 0), model_of(SMALL, 1)
    source = source_of(teacher)
    plan = make_plan(source, SMALL, "uniform", "v")
    student.load_state_dict(apply_plan(plan, source, SMALL))
    sliced = copy.deepcopy(student.state_dict())
    seen = {}
    norm = student.visual.layer1[0].bn2
    norm.register_forward_hook(lambda _, __, out: seen.update(out=out.clone()))
    for how, same in (("bias", False), ("least-squares", True)):
        student.load_state_dict(repair(how, plan, source, SMALL, sliced, PAIRS))
        images(student)
        assert torch.allclose(seen["out"].mean((0, 2, 3)), norm.bias, atol=1e-4)
        close = torch.allclose(seen["out"].std((0, 2, 3)), norm.weight.abs(), rtol=1e-2)
        assert close == same
    whole = make_plan(source, CFG, "uniform", "v")
    state = teacher.state_dict()
    after = repair("least-squares", whole, source, CFG, state, PAIRS)
    assert all(torch.equal(after[name], value) for name, value in state.items())  # nothing was cut


def spec_of(cfg):
    return StudentSpec("s", cfg, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_stage_lies_between_and_moments_are_cut_along():
    teacher = model_of(CFG, 0)
    source = source_of(teacher)
    spec = grown(spec_of(SMALL), source, 0.7)
    assert (spec.model_cfg["vision_cfg"]["layers"], spec.model_cfg["vision_cfg"]["width"]) == ([1, 1, 2, 1], 6)
    small = build_clip(spec.model_cfg, seed=1)
    plan = make_plan(source, spec.model_cfg, "magnitude", "v")
    assert (plan.skipped, plan.across) == ({}, {})
    moments = {
        f"model.clip.{name}": {
            "exp_avg": value.detach().clone(),
            "exp_avg_sq": value.detach() ** 2,
            "step": torch.tensor(3.0),
        }
        for name, value in teacher.named_parameters()
    }
    sliced = slice_moments(moments, plan, source, small.state_dict(), spec.model_cfg)
    state = apply_plan(plan, source, spec.model_cfg)
    for name, _ in small.named_parameters():
        assert torch.equal(sliced[f"model.clip.{name}"]["exp_avg"], state[name])
        assert torch.equal(sliced[f"model.clip.{name}"]["exp_avg_sq"], state[name] ** 2)


def test_positions_are_interpolated_as_timm_does():
    from timm.layers import resample_abs_pos_embed

    larger = {**CFG, "vision_cfg": {**CFG["vision_cfg"], "image_size": 96}}
    teacher = model_of(CFG, 0)
    plan = make_plan(source_of(teacher), larger, "front", "v")
    assert plan.across["visual"] == {"image_size": "2 x 2 places in the source, 3 x 3 places here"}
    got = apply_plan(plan, source_of(teacher), larger)["visual.attnpool.positional_embedding"]
    before = teacher.visual.attnpool.positional_embedding
    assert torch.allclose(got, resample_abs_pos_embed(before[None], [3, 3], num_prefix_tokens=1)[0], atol=1e-5)


def test_tinyclip_s_resnets_inherit_from_the_published_teachers_sizes():
    rn50 = {
        "embed_dim": 1024,
        "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    }
    source = ClipWeights("RN50", rn50, skeleton(rn50).state_dict(), "abc", "v", model=skeleton(rn50))
    for name, width in (("tinyclip-resnet19m", 44), ("tinyclip-resnet30m", 56)):
        cfg = STUDENTS.get(name).model_cfg
        plan = make_plan(source, cfg, "front", "v")
        assert (plan.skipped, plan.across) == ({}, {})
        tower = plan.towers["visual"]
        assert [len(kept) for kept in tower.blocks] == [3, 4, 6, 3]
        assert tower.cuts["stem"] == list(range(width))  # TinyCLIP's code takes the first ones too
        assert tower.cuts["heads"] == list(range(width // 2))
        assert len(tower.embed) == 1024


@pytest.mark.parametrize(
    ("vision", "word"),
    [
        ({"width": 10}, "stem.1 grows from 4 to 5"),
        ({"layers": [1, 2, 4, 2]}, "stage 3 grows from 3 blocks to 4"),
        ({"head_width": 32}, "heads are 64 wide in the source, 32 here"),
        ({"layers": 2, "width": 64, "patch_size": 16}, "a ResNet in the source, no ResNet here"),
    ],
)
def test_a_tower_that_no_selection_makes_is_left_alone_with_the_reason(vision, word):
    cfg = {**CFG, "vision_cfg": {**CFG["vision_cfg"], **vision}}
    plan = make_plan(source_of(model_of(CFG, 0)), cfg, "uniform", "v")
    assert word in plan.skipped["visual"]
    assert "text" in plan.towers


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"blocks": [[0], [1, 0], [0, 1, 2], [0, 1]]}, "must begin with 0"),
        ({"blocks": [[0]]}, "four lists"),
        ({"colour": 1}, "unknown key towers.visual.colour"),
        ({"cuts": {"stem": [1, 1]}}, "names an index twice"),
        ({"positions": "all"}, "interpolate"),
    ],
)
def test_a_plan_that_is_wrong_is_refused_by_key(change, word):
    value = make_plan(source_of(model_of(CFG, 0)), CFG, "front", "v").to_json()
    value["towers"]["visual"] |= change
    with pytest.raises(UsageError, match=word):
        plan_of(value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"stem": [0, 1, 2, 8]}, "index 8 on the axis stem .* has 8"),
        ({"stem": [0]}, "keeps 1 indices on the axis stem"),
        ({"heads": [0, 4]}, "index 4 on the axis heads"),
        ({"stem": None}, "no cut of the axis 'stem'"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(change, word):
    source = source_of(model_of(CFG, 0))
    plan = make_plan(source, SMALL, "front", "v")
    tower = plan.towers["visual"]
    cuts = {axis: kept for axis, kept in {**tower.cuts, **change}.items() if kept is not None}
    wrong = replace(plan, towers={**plan.towers, "visual": replace(tower, cuts=cuts)})
    with pytest.raises(UsageError, match=word):
        apply_plan(wrong, source, SMALL)

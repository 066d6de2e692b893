"""A start: what differs in kind is inherited where that is measured better or allowed; every parameter has an origin."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from distill.core.errors import UsageError
from reinforced_data.source import open_source
from students.inherit.calibration import Calibration, step0_loss
from students.inherit.start import Terms, check_strategy, start_from
from students.spec import STUDENTS
from students.student import build_student
from teachers.load import load_teacher, resolve_teacher

NANO = STUDENTS.get("nano")


@pytest.fixture(scope="module")
def source():
    return load_teacher(resolve_teacher("rendered")).inheritable()


@pytest.fixture(scope="module")
def pairs():
    """96 pairs of the embedded data."""
    import numpy as np

    from reinforced_data.pixels.decode import decode_rgb

    samples = [open_source("rendered", "train", 96)[i] for i in range(96)]
    pixels = [np.asarray(decode_rgb(s.image, s.key).resize((64, 64))) for s in samples]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return Calibration(images, [s.captions[0].text for s in samples], lambda student: torch.zeros(()))


def changed(**text):
    cfg = copy.deepcopy(NANO.model_cfg)
    cfg["text_cfg"] |= text
    return replace(NANO, model_cfg=cfg)


def test_every_parameter_has_an_origin(source):
    student = build_student(NANO, 0)
    before = {name: value.clone() for name, value in student.clip.state_dict().items()}
    took = start_from(student, source, "magnitude")
    assert set(took["origins"]) == set(before)
    for name, value in student.clip.state_dict().items():
        assert (took["origins"][name] == "new") == torch.equal(value, before[name])
    assert set(took["origins"].values()) == {"inherited"}
    half = build_student(replace(NANO, model_cfg={**NANO.model_cfg, "embed_dim": 200}), 0)
    took = start_from(half, source, "magnitude")
    assert [name for name, origin in took["origins"].items() if origin == "new"] == ["text_projection", "visual.proj"]


def test_a_tower_that_differs_is_inherited_where_that_is_measured_better(source, pairs):
    student = build_student(changed(no_causal_mask=True), 0)
    took = start_from(student, source, "magnitude", Terms(calibrate=lambda: pairs))
    losses = took["step0"]["text"]
    assert took["towers"] == ["visual", "text"]
    assert "causal" in took["across"]["text"]
    assert losses["inherited"] < losses["random"] < 1
    embeds = student.eval().encode_text(student.tokenize(pairs.captions)).detach()
    wanted = source.model.encode_text(source.tokenize(pairs.captions))
    assert step0_loss(embeds, wanted) == pytest.approx(losses["inherited"], abs=1e-3)


def test_a_source_that_knows_nothing_is_not_inherited_across_a_difference(source, pairs):
    """Constant weights give every caption the same embedding: worse than random ones, so the student keeps its own."""
    dull = {name: torch.full_like(value, 0.01) for name, value in source.state.items()}
    student = build_student(changed(no_causal_mask=True), 0)
    before = {name: value.clone() for name, value in student.clip.state_dict().items()}
    took = start_from(student, replace(source, state=dull), "magnitude", Terms(calibrate=lambda: pairs))
    assert took["towers"] == ["visual"]
    assert "no better than" in took["skipped"]["text"]
    assert "student.inherit_across" in took["skipped"]["text"]
    assert torch.equal(student.clip.token_embedding.weight, before["token_embedding.weight"])


@pytest.mark.parametrize(
    ("allowed", "towers"),
    [("auto", ["visual"]), ((), ["visual"]), (("causal",), ["visual", "text"]), ("all", ["visual", "text"])],
)
def test_without_pairs_a_difference_has_to_be_allowed(source, allowed, towers):
    student = build_student(changed(no_causal_mask=True), 0)
    took = start_from(student, source, "magnitude", Terms(allowed))
    assert took["towers"] == towers
    if towers == ["visual"]:
        assert "causal differs: True in the source, False here" in took["skipped"]["text"]


def test_a_plan_in_a_file_is_applied_as_it_stands(source, tmp_path):
    first = build_student(NANO, 0)
    plan = start_from(first, source, "front")["plan"]
    plan["towers"]["visual"]["hidden"] = list(range(64, 160))
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan), encoding="utf-8")
    check_strategy(f"plan:{file}")
    second = build_student(NANO, 1)
    took = start_from(second, source, f"plan:{file}")
    assert torch.equal(second.clip.visual.class_embedding, source.state["visual.class_embedding"][64:])
    assert took["plan"]["towers"] == plan["towers"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda plan: plan["towers"]["visual"].pop("heads"), "towers.visual lacks 'heads'"),
        (lambda plan: plan["towers"]["visual"].update(hiden=[1]), "unknown key towers.visual.hiden"),
        (
            lambda plan: plan["towers"]["text"].update(layers=["0"]),
            "towers.text.layers must be a list of whole numbers",
        ),
        (lambda plan: plan["towers"]["text"].update(hidden=[0, 0]), "names an index twice"),
        (lambda plan: plan.pop("towers"), "the key 'towers'"),
        (lambda plan: plan["towers"].update(image={}), "no tower 'image'"),
        (lambda plan: plan.update(format=9), "format is 9"),
    ],
)
def test_a_plan_that_is_wrong_is_refused_with_the_key(source, tmp_path, change, word):
    plan = start_from(build_student(NANO, 0), source, "front")["plan"]
    change(plan)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(UsageError, match=r"plan\.json") as caught:
        check_strategy(f"plan:{file}")
    assert word in str(caught.value)


def test_a_plan_that_does_not_fit_names_the_tensor_and_the_axis(source, tmp_path):
    plan = start_from(build_student(NANO, 0), source, "front")["plan"]
    file = tmp_path / "plan.json"
    for key, value, word in (
        ("hidden", list(range(95)), r"makes visual.conv1.weight \[95, 3, 8, 8\], and nano has \[96, 3, 8, 8\]"),
        ("hidden", list(range(100, 196)), "index 195 on the axis hidden"),
    ):
        plan["towers"]["visual"][key] = value
        file.write_text(json.dumps(plan), encoding="utf-8")
        with pytest.raises(UsageError, match=word):
            start_from(build_student(NANO, 1), source, f"plan:{file}")


def test_equal_tokens_of_another_vocabulary_are_inherited(source):
    """A student of CLIP's own 49,408 tokens takes those that the source's cut vocabulary has, and keeps its own of the rest."""
    student = build_student(replace(NANO, vocabulary=None), 0)
    own = student.clip.token_embedding.weight.detach().clone()
    took = start_from(student, source, "magnitude", Terms("all"))
    known = {token: index for index, token in enumerate(source.tokens)}
    hidden = took["plan"]["towers"]["text"]["hidden"]
    now = student.clip.token_embedding.weight
    for word in ("red</w>", "circle</w>", "<end_of_text>"):
        index = student.tokenizer.encoder[word]
        assert torch.equal(now[index], source.state["token_embedding.weight"][known[word]][hidden])
    lost = student.tokenizer.encoder["quantum</w>"]
    assert torch.equal(now[lost], own[lost])
    assert "tokens are in the source" in took["across"]["text"]["vocabulary"]


def test_step0_loss_is_zero_for_a_linear_copy_and_one_for_noise():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(256, 8, generator=generator)
    mixed = torch.nn.functional.normalize(targets, dim=1) @ torch.randn(8, 8, generator=generator)
    assert step0_loss(mixed, targets) < 0.06
    assert step0_loss(torch.randn(256, 8, generator=generator), targets) > 0.8

"""Training settings that a student cannot follow are refused before anything is labelled; others of an older run are no change."""

import pytest
import torch

from distill.core.errors import UsageError
from distill.recipe import Recipe, load_recipe
from distill.recipe.kept import differing_keys
from distill.stages.training.feasible import refuse_infeasible


def test_chunks_are_refused_for_students_with_batch_norms_and_for_captioners(monkeypatch):
    normed = torch.nn.Sequential(torch.nn.BatchNorm2d(3))  # as mci0 is
    monkeypatch.setattr("students.student.build_student", lambda spec, seed: normed)
    with pytest.raises(UsageError, match=r"BatchNorms .*batch_norm=fixed"):
        refuse_infeasible(load_recipe(None, ["student.name=mci0", "train.chunk=16"]))
    refuse_infeasible(load_recipe(None, ["student.name=mci0", "train.chunk=16", "train.batch_norm=fixed"]))
    refuse_infeasible(load_recipe(None, ["student.name=mci0"]))
    with pytest.raises(UsageError, match="captioner"):
        refuse_infeasible(
            load_recipe(None, ["objective=coca", "train.chunk=16", "train.batch_norm=fixed", "student.name=mci0"])
        )


def test_a_key_that_an_older_version_did_not_know_has_its_default():
    old = Recipe().model_dump(mode="json")
    del old["train"]["chunk"], old["train"]["batch_norm"]
    assert differing_keys(old, Recipe().model_dump(mode="json")) == []
    changed = load_recipe(None, ["train.batch_norm=fixed", "train.chunk=4"]).model_dump(mode="json")
    assert differing_keys(old, changed) == ["train.batch_norm", "train.chunk"]
    weights = {**old, "objective": {"affinity": 1.0}}
    assert differing_keys(weights, old) == ["objective.affinity"]


def test_parts_of_a_batch_must_divide_it(monkeypatch):
    refuse_infeasible(load_recipe(None, ["train.batch_size=64", "train.accumulate=8"]))
    for wrong in ("train.batch_size=60", "train.batch_size=8"):
        with pytest.raises(UsageError, match=r"train\.accumulate = 8: a batch of"):
            refuse_infeasible(load_recipe(None, [wrong, "train.accumulate=8"]))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(UsageError, match="of 8 processes"):
        refuse_infeasible(load_recipe(None, ["train.batch_size=64", "train.accumulate=8"]))

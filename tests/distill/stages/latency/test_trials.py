"""Several candidates are trained and the best is kept, also by a call that goes on after a kill anywhere."""

import json
import os

import pytest

from distill.console import Console
from distill.core import atomic
from distill.recipe import load_recipe
from distill.run_folder import RunFolder
from distill.stages.latency import trials
from distill.stages.opening import keep_recipe

SCORES = {64: 10.0, 56: 30.0, 48: 20.0}  # the second is the best


def entry(size):
    own = None if size == 64 else size
    name = f"nano at {size} px, 2 text layers, w8"
    return {"name": name, "student": "nano", "image_size": own, "text_layers": None, "precision": "w8"}


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run whose budget chose three students, the first of them in its recipe; training writes a file and its figures."""
    run, trained = RunFolder(tmp_path / "run"), []

    def train(job, arm, pairs, licence, advance, say):
        size = job.student.image_size or 64
        trained.append(size)
        for place in (arm.run.student, arm.run.checkpoints):
            place.mkdir(parents=True)
            (place / "size").write_text(str(size))
        arm.run.metrics.write_text("")
        arm.run.eval.mkdir()
        figures = {"t2i_r1": SCORES[size], "i2t_r1": SCORES[size]}
        arm.run.eval_of("student").write_text(json.dumps({"zero_shot": None, "retrieval": figures}))

    monkeypatch.setattr(trials, "train_model", train)
    monkeypatch.setattr(trials, "stored_pairs", lambda job, *rest: job.student.image_size)
    monkeypatch.setattr(trials, "training_licence", lambda *rest: "")
    monkeypatch.setattr(trials, "refuse_few", lambda *rest: None)
    monkeypatch.setattr(trials, "open_evalset", lambda recipe: None)
    run.path.mkdir()
    settings = ["choose.max_size=2", "choose.train=3", "student.name=nano"]
    recipe = load_recipe(None, settings)
    filled = {"student.image_size": "chosen", "student.text_layers": "chosen"}
    keep_recipe(run, recipe, filled, "run")
    atomic.write_json(run.choice, {"chosen": [entry(size) for size in SCORES]})
    return run, recipe, trained


def go(run, recipe, tmp_path):
    return trials.keep_best(recipe, tmp_path, None, run, Console(), None)


def check(run, kept):
    assert kept.student.image_size == 56
    assert (run.student / "size").read_text() == (run.checkpoints / "size").read_text() == "56"
    assert run.read_recipe().student.image_size == 56
    assert run.said_recipe().student.image_size is None  # nobody set it
    record = atomic.read_json(run.choice)
    assert record["kept"] == entry(56)["name"]
    assert [one["value"] for one in record["judged"]] == [10, 30, 20]


def test_the_best_of_those_that_were_trained_becomes_the_runs_student(begun, tmp_path):
    run, recipe, trained = begun
    check(run, go(run, recipe, tmp_path))
    assert trained == [64, 56, 48]
    check(run, go(run, run.read_recipe(), tmp_path))  # a call that goes on does nothing again
    assert trained == [64, 56, 48]
    assert (run.candidates / "nano-at-64-px-2-text-layers" / "student").exists()


@pytest.mark.parametrize("times", range(6))  # recipe.toml, resolved.json, choice.json, and what moves
def test_a_kill_costs_nothing_that_is_trained(begun, tmp_path, monkeypatch, times):
    run, recipe, trained = begun
    real, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) > times:
            raise KeyboardInterrupt
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            go(run, recipe, tmp_path)
    check(run, go(run, run.read_recipe(), tmp_path))
    assert trained == list(SCORES)


def test_one_candidate_is_trained_as_any_student(begun, tmp_path):
    run, recipe, trained = begun
    atomic.write_json(run.choice, {"chosen": [entry(64)]})
    assert go(run, recipe, tmp_path) is recipe
    assert trained == []

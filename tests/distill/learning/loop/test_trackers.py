"""Trackers get the rows of metrics.jsonl, by accelerate's own classes; a package that is not there is said before anything is spent."""

import importlib.util
import json
import sys
from types import ModuleType

import pytest

from distill.core.errors import UsageError
from distill.learning.loop.trackers import PACKAGES, refuse_absent
from distill.recipe import load_recipe
from distill.stages.training.feasible import refuse_infeasible
from tests.distill.learning.test_fit import Stop, stops_at, train


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package, which writes down what it is told."""
    module, told = ModuleType("wandb"), {"init": [], "rows": [], "config": {}, "finished": 0}
    module.__spec__ = importlib.util.spec_from_loader("wandb", None)

    class Run:
        def log(self, values, step):
            told["rows"].append((step, values))

        def finish(self):
            told["finished"] += 1

    def init(**options):
        told["init"].append(options)
        return Run()

    class Config:
        def update(self, values, **_):
            told["config"].update(values)

    module.init, module.config = init, Config()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_the_rows_go_to_the_tracker_and_a_resumed_training_is_the_same_run(tmp_path, wandb):
    with pytest.raises(Stop):
        train(tmp_path / "a", 12, source=stops_at(6), trackers=("wandb",))
    assert wandb["finished"] == 1  # an error ends it too
    train(tmp_path / "a", 12, trackers=("wandb",))
    written = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step, _ in wandb["rows"]]
    assert steps == [*range(1, 7), *range(5, 13)]  # six before the stop, then on from the checkpoint of step 4
    step, row = wandb["rows"][-1]
    assert {"step": step, **row} == written[-1]
    assert [options["project"] for options in wandb["init"]] == ["distill", "distill"]
    assert wandb["init"][0]["id"] == wandb["init"][1]["id"]
    assert wandb["config"]["lr"] == 1e-2
    assert wandb["finished"] == 2


@pytest.mark.parametrize("name", list(PACKAGES))
def test_a_tracker_that_is_not_installed_is_said_with_what_to_install(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"train\.trackers: {name} .*pip install {name}"):
        refuse_absent([name])
    with pytest.raises(UsageError, match=name):
        refuse_infeasible(load_recipe(None, [f'train.trackers=["{name}"]']))

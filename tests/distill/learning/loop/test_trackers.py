"""Trackers get the rows of metrics.jsonl, by accelerate's own classes; a package that is not there is said before anything is spent."""

import importlib.util
import json
import re
import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest

from distill.core.errors import UsageError
from distill.learning.loop.trackers import PACKAGES, Trackers, refuse_absent
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


def test_a_training_begun_anew_in_the_same_folder_is_another_run_there(tmp_path, wandb):
    train(tmp_path / "a", 4, trackers=("wandb",))
    shutil.rmtree(tmp_path / "a")  # as --overwrite does
    train(tmp_path / "a", 4, trackers=("wandb",))
    assert wandb["init"][0]["id"] != wandb["init"][1]["id"]


def test_tensorboard_hides_the_rows_of_steps_that_are_taken_again(tmp_path, monkeypatch):
    """Its reader drops what an earlier file has of step `purge_step` and later (tried with tensorboard 2.21)."""
    module, opened = ModuleType("tensorboard"), []
    module.__spec__ = importlib.util.spec_from_loader("tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", module)

    class Recorder:
        name = "tensorboard"

        def __init__(self, run_name, **options):
            opened.append(options["purge_step"])

        def start(self, *_, **__):
            pass

        store_init_configuration = log = finish = start

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker", Recorder)
    with pytest.raises(Stop):
        train(tmp_path / "a", 12, source=stops_at(6), trackers=("tensorboard",))
    train(tmp_path / "a", 12, trackers=("tensorboard",))
    assert opened == [None, 5]  # it goes on from the checkpoint of step 4


@pytest.fixture
def mlflow(monkeypatch):
    """A stand-in for the package with its rules: a step may have two rows, names hold few characters, settings do not change."""
    module, runs = ModuleType("mlflow"), {}
    module.__spec__ = importlib.util.spec_from_loader("mlflow", None)
    module.exceptions = SimpleNamespace(MlflowException=type("MlflowException", (Exception,), {}))
    module.utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100))
    active = []

    def start_run(run_id=None, **_):
        active[:] = [run_id or f"run{len(runs)}"]
        runs.setdefault(active[0], {"rows": [], "params": {}})
        return SimpleNamespace(info=SimpleNamespace(run_id=active[0]))

    def log_params(values):
        known = runs[active[0]]["params"]
        assert all(known.get(key, value) == value for key, value in values.items()), "settings do not change"
        known.update(values)

    def log_metrics(values, step):
        assert all(re.fullmatch(r"[\w.\- :/]+", name) for name in values)
        runs[active[0]]["rows"].append((step, values))

    def history(run_id, key):
        if run_id not in runs:
            raise module.exceptions.MlflowException
        return [SimpleNamespace(step=step) for step, values in runs[run_id]["rows"] if key in values]

    module.search_experiments = lambda **_: [SimpleNamespace(experiment_id="1")]
    module.start_run, module.log_params, module.log_metrics = start_run, log_params, log_metrics
    module.end_run = active.clear
    module.MlflowClient = lambda: SimpleNamespace(get_metric_history=history)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return runs


def test_mlflow_has_one_run_of_a_training_and_one_row_of_each_step(tmp_path, mlflow):
    with pytest.raises(Stop):
        train(tmp_path / "a", 12, source=stops_at(6), trackers=("mlflow",))
    train(tmp_path / "a", 12, trackers=("mlflow",), log_every=2)  # which may change
    ((_, run),) = mlflow.items()
    assert [step for step, _ in run["rows"]] == [*range(1, 7), 8, 10, 12]
    mlflow.clear()  # another server
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    train(tmp_path / "a", 4, trackers=("mlflow",))
    assert [step for step, _ in mlflow["run0"]["rows"]] == [1, 2, 3, 4]


def test_names_of_teachers_become_names_that_mlflow_takes(tmp_path, mlflow):
    trackers = Trackers(("mlflow",), tmp_path, {})
    trackers.log({"step": 1, "affinity/open_clip:ViT-B-32@/a+b.pt/image": 0.5}, 1)
    assert mlflow["run0"]["rows"] == [(1, {"affinity/open_clip:ViT-B-32_/a_b.pt/image": 0.5})]


@pytest.mark.parametrize("name", list(PACKAGES))
def test_a_tracker_that_is_not_installed_is_said_with_what_to_install(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"train\.trackers: {name} .*pip install {name}"):
        refuse_absent([name])
    with pytest.raises(UsageError, match=name):
        refuse_infeasible(load_recipe(None, [f'train.trackers=["{name}"]']))

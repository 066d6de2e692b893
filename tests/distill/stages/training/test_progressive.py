"""Progressive stages: one schedule over all of them, resumable in each, bit for bit."""

import json

import numpy as np
import pytest
import torch

from distill.core.errors import UsageError
from distill.models import TeacherSet
from distill.recipe import StageRecipe, load_recipe
from distill.run_folder import RunFolder
from distill.stages.opening import keep_recipe
from distill.stages.train import train_model
from distill.stages.training import arm as training
from distill.stages.training.arm import Arm
from distill.stages.training.progressive import stage_ends
from reinforced_data.training.pairs import Pair
from students.student import load_student
from teachers.spec import TeacherFacts

SETTINGS = [
    "train.steps=6", "train.batch_size=8", "train.checkpoint_every=1", "train.log_every=1", "train.warmup_steps=2",
    "student.stages=[{keep=0.9}, {keep=0.75, steps=1}]", "train.device=cpu", "student.repair=none",
]  # fmt: skip


class Stub:
    """24 pairs of noise, with embeddings of a teacher called rendered."""

    unpaired = None

    def __init__(self):
        self.teacher_facts = {"rendered": TeacherFacts("rendered", 128, 20.0, 0.0, "softmax")}

    def __len__(self):
        return 24

    def key(self, index):
        return f"k{index}"

    def side(self):
        return 64

    def pair(self, index, rng):
        own = np.random.default_rng(index)
        unit = [vector / np.linalg.norm(vector) for vector in own.normal(size=(2, 128)).astype(np.float32)]
        image = own.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        texts = (["a red circle", "two blue squares", "a star"][index % 3] + f" {index}",)
        return Pair(f"k{index}", image, index, texts, {"rendered": unit[0]}, {"rendered": unit[1][None]})


def test_a_run_with_stages_keeps_its_recipe_as_a_file_that_makes_the_same_run(tmp_path):
    """A stage that says no steps has none in TOML, which knows no None."""
    recipe, run = load_recipe(None, SETTINGS), RunFolder(tmp_path)
    keep_recipe(run, recipe, {}, "train")
    assert [stage.steps for stage in recipe.student.stages] == [None, 1]
    assert load_recipe(run.recipe) == recipe == run.read_recipe()


@pytest.fixture(scope="module")
def teachers():
    return TeacherSet(("rendered",), random_weights=False, seed=0)


def train(path, teachers, *settings):
    recipe = load_recipe(None, [*SETTINGS, *settings])
    arm = Arm("student", RunFolder(path), recipe.objective, recipe.student.inherit, teachers)
    train_model(recipe, arm, Stub(), "", lambda *_: None)
    return load_student(path / "student").clip.state_dict()


def steps_of(path):
    return [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, teachers):
    path = tmp_path_factory.mktemp("stages") / "whole"
    return path, train(path, teachers)


def test_stages_are_sizes_between_and_one_schedule(whole):
    path, _ = whole
    depths = [load_student(path / "stages" / str(n) / "student").spec.model_cfg["vision_cfg"]["layers"] for n in (1, 2)]
    assert depths == [4, 4]
    widths = [load_student(path / "stages" / str(n) / "student").spec.model_cfg["text_cfg"]["width"] for n in (1, 2)]
    assert widths == [128, 96]
    assert steps_of(path) == [1, 2, 3, 4, 5, 6]
    record = json.loads((path / "inheritance.json").read_text())
    assert record["source"] == "rendered"
    assert record["stages"] == [{"keep": 0.9, "last_step": 2}, {"keep": 0.75, "last_step": 3}]
    assert len(record["plan"]["towers"]["visual"]["layers"]) == 3  # the whole way as one plan, from the teacher
    assert max(record["plan"]["towers"]["visual"]["hidden"]) > 128
    assert set(record["origins"].values()) == {"inherited"}
    assert not (path / "stages" / "1" / "checkpoints").exists()


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_run_stopped_in_any_stage_goes_on_as_if_it_had_not(whole, tmp_path, teachers, monkeypatch, stop):
    real = training.stream_of

    def broken(recipe, data, tokenize):
        stream = real(recipe, data, tokenize)

        def batches(first, last):
            for step, batch in zip(range(first, last), stream(first, last), strict=False):
                if step == stop:
                    raise KeyboardInterrupt
                yield batch

        return batches

    monkeypatch.setattr(training, "stream_of", broken)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, teachers)
    monkeypatch.setattr(training, "stream_of", real)
    resumed = train(tmp_path, teachers)
    assert all(torch.equal(value, resumed[name]) for name, value in whole[1].items())
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    rows = [
        [json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (whole[0], tmp_path)
    ]
    assert rows[0] == rows[1]


def test_stages_end_where_they_are_told_or_share_what_is_left():
    stage = StageRecipe
    assert stage_ends([], 10) == [10]
    assert stage_ends([stage(keep=0.75), stage(keep=0.5)], 30) == [10, 20, 30]
    assert stage_ends([stage(keep=0.75, steps=4), stage(keep=0.5)], 30) == [4, 17, 30]
    with pytest.raises(UsageError, match="must shrink"):
        stage_ends([stage(keep=0.5), stage(keep=0.75)], 30)
    with pytest.raises(UsageError, match="nothing is left"):
        stage_ends([stage(keep=0.5, steps=30)], 30)

"""A student with the average of its weights lies beside the raw one (train.ema), and is judged like it."""

import torch
from safetensors.torch import load_file

from distill.core import atomic
from distill.learning import checkpoint
from distill.models import TeacherSet
from distill.reporting.facts import ROLES
from distill.reporting.hashes import artifact_hashes
from distill.run_folder import RunFolder
from distill.stages.evaluate import judged_models
from tests.command_line import distill
from tests.distill.verbs.test_endings import TRAIN


def test_the_averaged_student_lies_and_is_judged_beside_the_raw_one(runs):
    made = distill("train", *TRAIN, "--out", "mean", "--set", "train.steps=4", "--set", "train.ema=0.5", cwd=runs)
    assert made.returncode == 0, made.stderr
    run = RunFolder(runs / "mean")
    raw, mean = (load_file(folder / "model.safetensors") for folder in (run.student, run.averaged))
    kept = checkpoint.read_average(checkpoint.latest(run.checkpoints))
    assert raw.keys() == mean.keys()
    assert all(torch.equal(mean[name], kept[f"model.clip.{name}"]) for name in mean)
    assert not all(torch.equal(mean[name], raw[name]) for name in mean)
    assert atomic.read_json(run.averaged / "card.json")["average_of_weights"] == 0.5
    assert "average_of_weights" not in atomic.read_json(run.student / "card.json")
    assert "averaged/model.safetensors" in artifact_hashes(run)
    judged = {
        model.role: model
        for model in judged_models(run.read_recipe(), TeacherSet((), random_weights=False, seed=0), run)
    }
    assert list(judged)[:2] == ["student", "averaged"]
    assert "averaged" in ROLES
    embedder = judged["averaged"].embedder("cpu")
    assert embedder.parameters == judged["student"].embedder("cpu").parameters

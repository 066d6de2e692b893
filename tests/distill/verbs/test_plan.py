"""What distill plan says is what distill run then does; its gigabytes are those of a set and a student that were made."""

import json
import platform
import re
import shutil

import pytest

from distill.core import atomic
from distill.core.existing import Existing
from distill.recipe import load_recipe
from distill.run_folder import RunFolder
from distill.stages.opening import open_run
from distill.verbs import expected, rehearsed
from tests.command_line import distill, on_terminal

WORDS = {
    "a length that fits the data": ["--data", "rendered:train=300,eval=40"],
    "a length that is said": ["--data", "rendered:train=300,eval=40", "--epochs", 3, "--batch-size", 32, "--seed", 7],
    "a published training": ["--data", "rendered:train=64,eval=8", "--student", "mci0", "--set", "export.targets=[]"],
    "a rehearsal": ["--data", "rendered:train=64,eval=8", "--rehearse"],
    "a budget": ["--data", "rendered:train=300,eval=40", "--max-size", "3MB", "--set", "choose.students=['nano']"],
}


@pytest.fixture
def no_weights(monkeypatch):
    """Nobody reads a model's weights or asks a network."""

    def refuse(*given, **more):
        raise AssertionError("weights were wanted")

    for place in (
        "distill.models.load_teacher",
        "distill.models.load_captioner",
        "distill.core.folders.hub._from_network",
    ):
        monkeypatch.setattr(place, refuse)


@pytest.mark.parametrize("name", WORDS)
def test_its_numbers_are_those_that_run_then_uses(tmp_path, tiny_teacher, monkeypatch, no_weights, name):
    words = ["--teacher", tiny_teacher, *WORDS[name]]
    said = distill("plan", *words, "--json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    plan = json.loads(said.stdout)
    assert list(tmp_path.iterdir()) == []  # nothing is written
    begun = []

    def begin(run, job, existing, filled):
        begun.append((str(run), json.loads(job.model_dump_json()), filled))
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.verbs.run.share_run", begin)
    monkeypatch.setattr("distill.models.load_teacher", lambda *given, **more: None)
    assert distill("run", *words, cwd=tmp_path).returncode == 130
    assert begun == [(plan["out"], plan["recipe"], plan["filled"])]
    train = plan["recipe"]["train"]
    assert (plan["training"]["steps"], plan["training"]["batch_size"]) == (train["steps"], train["batch_size"])
    assert plan["training"]["seen"] == train["steps"] * train["batch_size"]


def test_its_gigabytes_are_those_of_what_was_made(runs, tiny_teacher, no_weights):
    said = distill("plan", "--teacher", tiny_teacher, "--data", "rendered:train=24,eval=8", "--set", "train.batch_size=8", "--json",
                   cwd=runs)  # fmt: skip
    assert said.returncode == 0, said.stderr
    plan = json.loads(said.stdout)
    sizes = {row["what"]: row["bytes"] for row in plan["storage"]}
    manifest = atomic.read_json(runs / "set" / "reinforced" / "manifest.json")
    made = sum(shard["size_bytes"] for shard in manifest["shards"])
    assert sizes["reinforced set"] == pytest.approx(made, rel=0.15)
    assert sizes["students"] / 2 == pytest.approx((runs / "student/student/model.safetensors").stat().st_size, rel=0.02)
    (checkpoint,) = (runs / "student" / "checkpoints").glob("step-*")
    written = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    assert sizes["checkpoints"] / 4 == pytest.approx(
        written, rel=0.1
    )  # of two students, one kept and one being written each
    assert plan["disk"]["needed_bytes"] == sum(sizes.values())
    stored = json.loads(distill("plan", "--data", "set", "--set", "train.batch_size=8", "--json", cwd=runs).stdout)
    assert "reinforced set" not in {row["what"] for row in stored["storage"]}
    assert stored["data"]["labelled"]
    assert not stored["exists"]
    assert json.loads(
        distill("plan", "--data", "set", "--set", "train.batch_size=8", "--out", "student", "--json", cwd=runs).stdout
    )["exists"]


def test_a_vocabulary_that_is_yet_to_be_cut_makes_the_students_size_the_most_that_it_can_be(
    tmp_path, tiny_teacher, no_weights
):
    words = ["--teacher", tiny_teacher, "--data", "rendered:train=300,eval=40", "--set", "export.targets=[]", "--json"]
    cut = ["--student", "mci0", "--set", "student.vocabulary=auto:8000"]
    rows = [json.loads(distill("plan", *words, *more, cwd=tmp_path).stdout)["storage"][1] for more in ([], cut)]
    assert "at most" not in rows[0]["basis"]
    assert rows[1]["basis"].endswith("at most: its vocabulary is yet to be cut")


def planted(folder, job, seconds, speed):
    """A finished rehearsal that labelled eight samples, by what it left."""
    run = RunFolder(folder)
    open_run(run, job, Existing.REFUSE)
    atomic.write_json(run.seconds, seconds)
    run.reinforced.mkdir()
    atomic.write_json(run.reinforced / "manifest.json", {"samples": 8})
    run.metrics.write_text(
        json.dumps({"step": 1, "samples_per_s": 0.1}) + "\n" + json.dumps({"step": 2, "samples_per_s": speed}) + "\n"
    )
    return run


def test_hours_are_a_rehearsals_scaled_or_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    job = load_recipe(
        None, {"reinforce.views_per_image": 2, "train.steps": 100, "train.batch_size": 8, "reinforce.batch_size": 8}
    )
    was = load_recipe(job, {"reinforce.views_per_image": 1, "train.steps": 2, "train.batch_size": 4, "reinforce.batch_size": 4,
                            "rehearse": True, "limit": 8})  # fmt: skip
    run = planted(tmp_path / "rehearsal", was, {"reinforce": 25.0, "export and check parity": 60.0}, speed=2.0)
    data = expected.Data(images=800, pixels=0, captions=5, words=50, judged=8, labelled=False)
    stages = ["reinforce", "train student", "train plain student", "export and check parity", "measure captions"]
    rows = {row["stage"]: row for row in rehearsed.hours(job, data, stages, run.path)}
    # 200 times as many views: at least the start of 5 s and half of the rest, in batches of twice the size.
    assert rows["reinforce"]["low"] * 3600 == pytest.approx(5 + 20 * 200 / 2)
    assert rows["reinforce"]["high"] * 3600 == pytest.approx(1.5 * 25 * 200)
    assert "measured here on 8 samples" in rows["reinforce"]["basis"]
    # A step of four pairs took 2 s, of which 0.2 s may be the same for any number; 100 steps of eight.
    assert rows["train student"]["low"] * 3600 == pytest.approx(100 * (0.2 + 1.8 * 2 / 2))
    assert rows["train student"]["high"] * 3600 == pytest.approx(1.5 * 100 * 2 * 2)
    assert rows["train plain student"] == {**rows["train student"], "stage": "train plain student"}
    assert rows["export and check parity"]["low"] * 3600 == pytest.approx(60)
    assert rows["measure captions"]["high"] is None
    # On a GPU a larger batch may cost no more than a small one.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    larger = load_recipe(job, {"train.batch_size": 400})
    (row,) = rehearsed.hours(larger, data, ["train student"], run.path)
    assert row["low"] * 3600 == pytest.approx(100 * 2)
    (row,) = rehearsed.hours(load_recipe(job, {"data": "rendered:train=9"}), data, ["train student"], run.path)
    assert "measured here on 8 samples of other data" in row["basis"]
    # Of other models or another machine it says nothing.
    for other in ({"teachers": ["dfn-vitl14"]}, {"student.name": "mci0"}, {"export.targets": ["onnx"]}):
        assert rehearsed.hours(load_recipe(job, other), data, stages, run.path)[0]["basis"].startswith(
            "unknown until rehearsed"
        )
    monkeypatch.setattr(platform, "platform", lambda: "another machine")
    assert rehearsed.hours(job, data, stages, run.path)[0]["high"] is None
    assert rehearsed.hours(job, data, stages, tmp_path / "nowhere")[0]["high"] is None


def test_a_rehearsal_is_found_where_run_puts_it_or_where_it_is_said_to_be(tmp_path, tiny_teacher, no_weights):
    from distill.rehearsal import rehearsal_of
    from distill.verbs.run import default_out

    words = ["--teacher", tiny_teacher, "--data", "rendered:train=300,eval=40", "--set", "export.targets=[]"]
    said = load_recipe(
        None, {"teachers": [str(tiny_teacher)], "data": "rendered:train=300,eval=40", "export.targets": []}
    )
    own = default_out(said.model_copy(update={"rehearse": True}))
    for place, more in ((own, []), ("elsewhere", ["--rehearsal", "elsewhere"])):
        before = distill("plan", *words, *more, "--json", cwd=tmp_path)
        if more:  # what somebody names is not passed over in silence
            assert before.returncode == 2
            assert "--rehearsal 'elsewhere' tells nothing of this job: there is no finished run" in before.stderr
        else:
            assert {row["high"] for row in json.loads(before.stdout)["hours"]} == {None}
        planted(tmp_path / place, rehearsal_of(said), {"reinforce": 25.0}, speed=2.0)
        after = json.loads(distill("plan", *words, *more, "--json", cwd=tmp_path).stdout)
        (row,) = [row for row in after["hours"] if row["stage"] == "reinforce"]
        assert 0 < row["low"] < row["high"]
        assert row["basis"] == f"measured here on 8 samples ({place})"
        if more:
            other = distill("plan", *words, *more, "--set", "student.name=rendered-teacher", cwd=tmp_path)
            assert (other.returncode, "its teachers, captioners, student or exports" in other.stderr) == (2, True)
        if place == own:
            shown = distill("plan", *words, cwd=tmp_path).stdout
            assert "Together " in shown
            shutil.rmtree(tmp_path / place)


def test_terms_downloads_and_packages_are_said_before(tmp_path, monkeypatch, no_weights):
    weights = tmp_path / "weights" / "apple" / "DFN2B-CLIP-ViT-L-14"
    words = ["plan", "--teacher", "dfn-vitl14", "--teacher", "openai-vitb32", "--captioner", "coca-vitl14", "--target", "onnx",
             "--target", "litert", "--data", "rendered:train=300,eval=8"]  # fmt: skip
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("export.target.Target.missing", lambda self: "do this" if self.name == "litert" else None)
    plan = json.loads(distill(*words, "--json", cwd=tmp_path).stdout)
    forbids = {row["origin"]: row["forbids"] for row in plan["terms"]}
    assert forbids["teacher dfn-vitl14"] == "commercial use"
    assert forbids["teacher openai-vitb32"] == forbids["captioner coca-vitl14"] == ""
    assert {row["what"]: row["here"] for row in plan["downloads"]} == dict.fromkeys(
        ["teacher dfn-vitl14", "teacher openai-vitb32", "captioner coca-vitl14"], False
    )
    assert {row["target"]: (row["ready"], row["do"]) for row in plan["targets"]} == {
        "onnx-fp32": (True, ""), "litert-fp32": (False, "do this"),
    }  # fmt: skip
    weights.mkdir(parents=True)
    (weights / "open_clip_pytorch_model.bin").write_bytes(b"weights")
    plan = json.loads(distill(*words, "--json", cwd=tmp_path).stdout)
    assert plan["downloads"][0] == {
        "what": "teacher dfn-vitl14", "from": "apple/DFN2B-CLIP-ViT-L-14/open_clip_pytorch_model.bin", "here": True,
    }  # fmt: skip
    assert expected.forbidden("CC-BY-NC-4.0") == "commercial use"
    assert "look at its terms" in expected.forbidden("unknown: the folder has no licence")


def test_what_run_refuses_it_refuses_too(tmp_path, no_weights):
    for words in (["--student", "nanno"], ["--data", "nowhere"], ["--set", "objective=clipp"], ["--batch-size", 4096]):
        mine, runs = (distill(verb, *words, cwd=tmp_path) for verb in ("plan", "run"))
        assert (mine.returncode, runs.returncode) == (2, 2)
        assert mine.stderr.splitlines()[-1] == runs.stderr.splitlines()[-1]


@pytest.mark.parametrize("columns", [80, 120])
def test_it_is_read_on_narrow_and_wide_terminals(tmp_path, columns, no_weights):
    words = ["plan", "--teacher", "dfn-vitl14", "--data", "rendered:train=300,eval=40", "--target", "onnx"]
    sent = on_terminal(columns, *words, cwd=tmp_path)
    assert sent.returncode == 0, sent.stdout
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent.stdout)
    assert max(map(len, shown.splitlines())) <= columns
    told = " ".join(shown.split())
    for words in ("300 images", "chosen for you", "unknown until rehearsed", "reinforced set", "are needed and", "commercial use",
                  "not here: apple/DFN2B", "target onnx-fp32"):  # fmt: skip
        assert words in told

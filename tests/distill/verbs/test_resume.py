"""`--resume` alone goes on with a run as it was, whatever verb began it; what contradicts it is named."""

import shlex
import shutil

import pytest
from safetensors.torch import load_file

from distill.core import atomic
from distill.core.existing import Existing
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.opening import open_run
from distill.verbs.flags import recipe_to_go_on
from tests import forks
from tests.command_line import distill


def weights(run):
    return load_file(run / "student" / "model.safetensors")


def test_a_run_stands_for_the_set_in_it(runs):
    assert RunFolder(runs / "student").read_recipe().data == str(runs / "set" / "reinforced")


@pytest.mark.parametrize("words", [["student", "--resume"], ["--out", "student", "--resume"]])
def test_resume_alone_goes_on_with_the_run_as_it_was(runs, words):
    before, recipe = weights(runs / "student"), (runs / "student" / "recipe.toml").read_text()
    shutil.rmtree(runs / "student" / "student")
    shutil.rmtree(runs / "student" / "checkpoints")
    assert distill("train", *words, cwd=runs).returncode == 0
    after = weights(runs / "student")
    assert all((before[name] == after[name]).all() for name in before)
    assert (runs / "student" / "recipe.toml").read_text() == recipe


def test_what_contradicts_the_run_is_named_with_both_values(runs):
    for setting in ("train.steps=5", "train.samples=40"):
        said = distill("train", "student", "--resume", "--set", setting, cwd=runs)
        assert said.returncode == 2
        assert "other settings: train.steps. Resume with its own (train.steps = 4)" in said.stderr
    assert (
        distill("train", "student", "--resume", "--set", "train.samples=32", cwd=runs).returncode == 0
    )  # the same 4 steps
    assert (
        distill("train", "student", "--resume", "--set", "train.workers=0", cwd=runs).returncode == 0
    )  # free to change


WRONG = {
    "no such run": (["train", "studnet", "--resume"], ["studnet", "looked for", "'student'"]),
    "a wider verb": (["run", "set", "--resume"], ["begun by distill reinforce", "distill reinforce set --resume"]),
    "no resume": (["train", "set"], ["--resume", "--data set", "--out set"]),
    "two runs": (["train", "set", "--out", "student", "--resume"], ["Two run folders"]),
    "nothing near": (["reinforce", "--resume", "--out", "/nowhere/at/all"], ["There is no run"]),
    "a wrong set": (["train", "--data", "set/reinforcd", "--out", "x"], ["a reinforced set", "'reinforced'"]),
    "a wrong folder": (["train", "--data", "runs/set/reinforced", "--out", "x"], ["a reinforced set", "set/reinforced'?"]),
    "a wrong run": (["train", "--data", "sett/reinforced", "--out", "x"], ["a reinforced set", "'set'"]),
    "a run without a set": (["train", "--data", "student", "--out", "x"], ["a run of distill without", "--data {set}"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_word_says_what_was_looked_for_and_what_is_near(runs, name):
    words, parts = WRONG[name]
    said = distill(*words, cwd=runs)
    assert said.returncode == 2
    for part in parts:
        assert part.replace("{set}", str(runs / "set" / "reinforced")) in said.stderr
    assert not (runs / "x").exists()


def test_a_reinforced_set_is_checked_by_its_run_alone(runs):
    said = distill("reinforce", "set", "--resume", "--verify", 2, "--json", cwd=runs)
    assert said.returncode == 0, said.stderr
    assert atomic.read_json(runs / "set" / "reinforced-verify.json")["asked"] == 2
    assert RunFolder(runs / "set").read_recipe().data == "rendered:train=24,eval=8"


def test_values_that_were_filled_in_are_filled_in_again_and_not_taken_for_said(tmp_path):
    run = RunFolder(tmp_path / "run")
    job = Recipe.model_validate({"student": {"name": "mci2"}, "train": {"steps": 7, "lr": 0.5}})
    open_run(run, job, Existing.REFUSE, {"train.steps": "7 epochs of one image", "train.beta1": "as published"})
    base = recipe_to_go_on("run", run, Existing.RESUME, None, ())
    assert base.student.name == "mci2"
    assert base.train.lr == 0.5
    assert {"steps", "beta1"} & base.train.model_fields_set == set()
    assert recipe_to_go_on("reinforce", run, Existing.RESUME, None, ()).train.steps == 7
    assert recipe_to_go_on("run", run, Existing.RESUME, Recipe(), ()) == Recipe()  # a call with a recipe says all anew
    assert recipe_to_go_on("run", run, Existing.REFUSE, None, ()) == Recipe()


def test_the_widest_verb_goes_on_and_its_command_can_be_pasted(tmp_path):
    run = RunFolder(tmp_path / "my run")
    assert run.verb() == ""
    for verb, widest in (("train", "train"), ("reinforce", "train"), ("run", "run"), ("train", "run")):
        open_run(run, Recipe(), Existing.RESUME, None, verb)
        assert run.verb() == widest
    words = shlex.split(run.command("train.lr=0.1"))
    assert words == ["distill", "run", str(tmp_path / "my run"), "--resume", "--set", "train.lr=0.1"]


KILLED = {
    "reinforce": (
        ["--data", "rendered:train=24,eval=8", "--set", "reinforce.shard_size=4", "--set", "reinforce.batch_size=4"],
        "reinforced/shard-*.arrow", "reinforced/shard-*.arrow",
    ),
    "train": (
        ["--data", "set", "--set", "student.inherit=none", "--set", "train.steps=24", "--set", "train.batch_size=8",
         "--set", "train.checkpoint_every=4"],
        "checkpoints/step-*/state.json", "student/model.safetensors",
    ),
}  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize("verb", KILLED)
def test_what_was_killed_goes_on_by_its_folder_alone_to_the_same_files(runs, tiny_teacher, tmp_path, verb, monkeypatch):
    words, reached, made = KILLED[verb]
    words = [*words, *(["--teacher", tiny_teacher] if verb == "reinforce" else [])]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    monkeypatch.chdir(runs)
    # All three are processes of their own: sums depend on the threads of a process, and earlier tests may have set this one's.
    forks.finish(forks.start(verb, *words, "--out", whole, log=tmp_path / "whole.log"), tmp_path / "whole.log")
    forks.kill_when(forks.start(verb, *words, "--out", out, log=tmp_path / "log"), lambda: any(out.glob(reached)))
    expected = {file.relative_to(whole): atomic.sha256_file(file) for file in whole.glob(made)}
    assert {file.relative_to(out) for file in out.glob(made)} < set(expected)
    monkeypatch.chdir(tmp_path)
    forks.finish(forks.start(verb, out, "--resume", log=tmp_path / "again"), tmp_path / "again")
    assert {file.relative_to(out): atomic.sha256_file(file) for file in out.glob(made)} == expected


@pytest.fixture
def stopped(runs, tmp_path, monkeypatch):
    """A copy of the run student/ beside a file of labels, and what an export is told to do, which Ctrl-C ends at once."""
    shutil.copytree(runs / "student", tmp_path / "mine")
    (tmp_path / "labels.txt").write_text("disc\nstar\n")
    told = []

    def stop(job, run, console, *, again):
        told.append((job, run.path.absolute(), again))
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.stages.exporting.stage.export_stage", stop)
    return tmp_path, told


EXPORT = ["--target", "onnx", "--precision", "fp16", "--max-drop", 0.3, "--max-mb", 9, "--classes", "labels.txt", "--template",
          "a {}", "--batch", 2, "--data", "rendered:train=9,eval=4", "--set", "export.min_cosine=0.9"]  # fmt: skip


def test_an_export_goes_on_by_all_that_it_was_asked(stopped, monkeypatch):
    place, told = stopped
    first = distill("export", "mine", *EXPORT, cwd=place)
    assert first.returncode == 130
    advised = first.stderr.rstrip().rpartition("Go on by: distill ")[2]
    assert advised == "export mine --resume"
    assert distill(*advised.split(), cwd=place).returncode == 130
    assert distill("export", "--out", place / "mine", "--resume", cwd=place.parent).returncode == 130
    assert told[0] == told[1] == told[2]
    job = told[0][0]
    assert job.export.targets == ("onnx",)
    assert (job.export.max_drop, job.export.max_mb, job.export.batch, job.export.min_cosine) == (0.3, 9, 2, 0.9)
    assert (job.export.classes, job.export.templates) == (str(place / "labels.txt"), ("a {}",))
    assert job.eval.data == "rendered:train=9,eval=4"
    assert distill("export", "mine", cwd=place).returncode == 130  # without --resume: the run's own recipe anew
    assert told[3][0].export.targets == Recipe().export.targets


def test_other_words_of_an_export_are_checked_once_something_of_it_is_finished(stopped):
    place, told = stopped
    assert distill("export", "mine", *EXPORT, cwd=place).returncode == 130
    assert distill("export", "mine", "--resume", "--set", "eval.limit=5", cwd=place).returncode == 130
    assert told[-1][0].eval.limit == 5
    (place / "mine" / "export" / "onnx-fp16").mkdir(parents=True)
    (place / "mine" / "export" / "onnx-fp16" / "artifact.json").write_text("{}")
    said = distill("export", "mine", "--resume", "--set", "eval.limit=6", cwd=place)
    assert said.returncode == 2
    assert "'mine' was started with other settings: eval.limit. Resume with its own (eval.limit = 5)" in said.stderr
    assert distill("export", "mine", "--resume", "--target", "onnx-w8", cwd=place).returncode == 130  # free to change
    assert (told[-1][0].eval.limit, told[-1][0].export.targets) == (5, ("onnx-w8",))
    assert distill("export", "mine", "--resume", "--overwrite", cwd=place).returncode == 2


def test_an_export_of_a_model_from_elsewhere_goes_on_with_that_model(stopped, tiny_teacher):
    place, told = stopped
    shutil.copytree(tiny_teacher, place / "other")
    assert distill("export", "other", "--out", "files", "--target", "onnx", cwd=place).returncode == 130
    shutil.rmtree(place / "files" / "student")  # as after a kill while it was taken in
    assert distill("export", place / "files", "--resume", cwd=place.parent).returncode == 130
    assert told[0] == told[1]
    assert atomic.read_json(place / "files" / "student" / "card.json")["origin"] == "other"
    (place / "files" / "export" / "onnx-fp32").mkdir(parents=True)
    (place / "files" / "export" / "onnx-fp32" / "artifact.json").write_text("{}")
    said = distill("export", "rendered", "--out", "files", "--resume", cwd=place)
    assert said.returncode == 2
    assert 'other settings: model. Resume with its own (model = "other")' in said.stderr


def test_a_model_that_could_not_be_taken_in_leaves_nothing_in_the_way(stopped, tiny_teacher):
    place, _ = stopped
    failed = distill("export", "nothing-so-called", "--out", "files", "--target", "onnx", cwd=place)
    assert failed.returncode == 2
    assert not (place / "files").exists()
    assert "Which model?" in distill("export", "--target", "onnx", cwd=place).stderr
    nothing = distill("export", "--out", "nowhere", "--resume", cwd=place)
    assert nothing.returncode == 2
    assert "no export in 'nowhere' to go on with: looked for asked-export.json" in nothing.stderr
    shutil.copytree(tiny_teacher, place / "other")
    assert distill("export", "other", "--out", "files", "--target", "onnx", cwd=place).returncode == 130
    again = distill(
        "export", "rendered", "--out", "files", "--target", "onnx", cwd=place
    )  # nothing was made of the first
    assert again.returncode == 130, again.stderr
    assert atomic.read_json(place / "files" / "student" / "card.json")["origin"] == "rendered"


def test_an_export_that_did_not_pass_says_how_to_go_on_with_what_is_finished(stopped, monkeypatch):
    from distill.core.errors import DistillError

    place, _ = stopped

    def fail(*given, **more):
        raise DistillError("onnx-w8 failed parity.")

    monkeypatch.setattr("distill.stages.exporting.stage.export_stage", fail)
    failed = distill("export", "mine", "--target", "onnx-w8", cwd=place)
    assert failed.returncode == 1
    advice = "distill export mine --resume and --target or --set export.min_cosine."
    assert failed.stderr.rstrip().endswith(
        f"onnx-w8 failed parity.\nTo go on with other targets or another threshold: {advice}"
    )


def test_a_profile_goes_on_by_all_that_it_was_asked(stopped, monkeypatch):
    place, told = stopped
    (place / "onnxruntime_perf_test").touch()
    monkeypatch.setattr("distill.verbs.profile._found", lambda path: ([], path / "student"))

    def stop(folders, student, settings, *, resume, progress):
        told.append((settings, resume))
        raise KeyboardInterrupt

    monkeypatch.setattr("export.latency.measure.profile", stop)
    words = [
        "--device",
        "host",
        "--runner",
        "onnxruntime_perf_test",
        "--lan",
        "--port",
        8123,
        "--set",
        "profile.runs=9",
    ]
    first = distill("profile", "mine", *words, cwd=place)
    assert first.returncode == 130
    advised = first.stderr.rstrip().rpartition("Go on by: distill ")[2]
    assert advised == "profile mine --resume"
    assert distill(*advised.split(), cwd=place).returncode == 130
    assert distill("profile", place / "mine", "--resume", "--port", 8124, cwd=place.parent).returncode == 130
    settings = told[0][0]
    assert (settings.devices, settings.runners, settings.lan, settings.port, settings.runs) == (
        ("host",), (str(place / "onnxruntime_perf_test"),), True, 8123, 9,
    )  # fmt: skip
    assert told == [(settings, False), (settings, True), (settings.model_copy(update={"port": 8124}), True)]

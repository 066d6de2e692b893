"""A call that failed leaves the way free: corrected, with the same --out and without --resume or --overwrite, it runs.

What can be known before is found before the folder is made.
"""

import shutil

import pytest

from tests.command_line import distill

TRAIN = [
    "train",
    "--data",
    "set",
    "--set",
    "student.inherit=none",
    "--set",
    "train.steps=1",
    "--set",
    "train.batch_size=8",
]
LABEL = ["reinforce", "--teacher", "teacher", "--data", "rendered:train=8,eval=4", "--verify", 0]
KEEP = ["curate", "set", "--filter", "score:keep=0.5"]
BROKEN_CAPTIONER = "def caption(*given):\n    raise RuntimeError('out of ink')\n"

# What is wrong -> (the call that is right, what is said besides or instead, what the error names).
EARLY = {
    "a batch larger than the set": (TRAIN, ["--set", "train.batch_size=64"], "fewer than one batch of 64"),
    "a set with a cut shard": (TRAIN, ["--data", "cut"], "shard-00000"),
    "a set without facts": (TRAIN, ["--data", "hollow"], "schema version"),
    "no data there": (TRAIN, ["--data", "sett"], "sett"),
    "an unknown student": (TRAIN, ["--student", "nanno"], "nano"),
    "a size that the tower does not take": (
        TRAIN, ["--student", "timm:vit_tiny_patch16_224+text:1x32", "--set", "student.image_size=100"], "takes 224 pixels",
    ),
    "no selection there": (TRAIN, ["--set", "selection=nowhere"], "selection"),
    "a selection of another set": (TRAIN, ["--set", "selection=foreign"], "foreign"),
    "weights that are damaged": (TRAIN, ["--teacher", "damaged", "--set", "student.inherit=front"], "damaged"),
    "a start by an unknown model": (TRAIN, ["--set", "student.inherit=front", "--set", "student.inherit_from=rendred"], "rendered"),
    "an unknown objective": (TRAIN, ["--set", "objective=clipp"], "clip"),
    "a tracker that is not installed": (TRAIN, ["--set", "train.trackers=['aim']"], "aim"),
    "an empty word": (TRAIN, ["--student", ""], "--student is empty"),
    "a seed below zero": (TRAIN, ["--set", "seed=-1"], "seed"),
    "a damaged teacher": (LABEL, ["--teacher", "damaged"], "damaged"),
    "an unknown captioner": (LABEL, ["--captioner", "cocca-vitl14"], "coca-vitl14"),
    "photos of which none is one": (LABEL, ["--data", "noise"], "can be used"),
    "Slurm without its partition": (LABEL, ["--executor", "slurm"], "--slurm-partition"),
    "a set to extend that is not there": (LABEL, ["--extend"], "--extend adds to a finished set"),
    "a filter that keeps twice as many": (KEEP, ["--filter", "score:keep=2"], "keep"),
}  # fmt: skip
LATE = {
    "a loss that is not finite": (TRAIN, ["--set", "train.lr=1e30", "--set", "train.steps=3"], "not finite"),
    "a captioner that fails": (LABEL, ["--captioner", "python:broken_captioner:caption"], "out of ink"),
}


@pytest.fixture(scope="module")
def desk(runs, tiny_teacher, tmp_path_factory):
    """A folder with a good set and a good teacher, and what people have of bad ones."""
    place = tmp_path_factory.mktemp("desk")
    for name in ("set", "cut", "hollow"):
        shutil.copytree(runs / "set", place / name)
    (place / "cut" / "reinforced" / "shard-00000.arrow").write_bytes(b"half")
    (place / "hollow" / "reinforced" / "manifest.json").write_text("{}")
    for name in ("teacher", "damaged"):
        shutil.copytree(tiny_teacher, place / name)
    (place / "damaged" / "model.safetensors").write_bytes(b"half")
    (place / "noise").mkdir()
    (place / "noise" / "a.jpg").write_bytes(b"no picture")
    (place / "noise" / "a.txt").write_text("a caption")
    (place / "broken_captioner.py").write_text(BROKEN_CAPTIONER)
    made = distill("reinforce", "--teacher", "teacher", "--data", "rendered:train=9,eval=4", "--verify", 0,
                   "--filter", "score:keep=0.9", "--out", "other", cwd=place)  # fmt: skip
    assert made.returncode == 0, made.stderr
    shutil.copytree(place / "other" / "selection", place / "foreign")
    return place


def corrected(desk, name, right):
    done = distill(*right, "--out", name, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert (desk / name).is_dir()


def _instead(right, wrong):
    """The right call with other words: its --data, of which there is one, is replaced."""
    if "--data" not in wrong:
        return [*right, *wrong]
    place = right.index("--data")
    return [*right[:place], *right[place + 2 :], *wrong]


@pytest.mark.parametrize("name", EARLY)
def test_what_can_be_known_before_leaves_nothing_and_the_corrected_call_runs(desk, name):
    right, wrong, named = EARLY[name]
    failed = distill(*_instead(right, wrong), "--out", name, cwd=desk)
    assert failed.returncode in (1, 2)
    assert named in failed.stderr
    assert not (desk / name).exists()
    corrected(desk, name, right)


@pytest.mark.parametrize("name", LATE)
def test_what_only_the_work_shows_leaves_the_way_free_too(desk, name, monkeypatch):
    monkeypatch.syspath_prepend(desk)
    right, wrong, named = LATE[name]
    failed = distill(*right, *wrong, "--out", name, cwd=desk)
    assert failed.returncode == 1
    assert named in failed.stderr
    corrected(desk, name, right)


def test_a_call_that_resumes_by_other_settings_where_nothing_was_finished_is_a_new_one(desk):
    from distill.run_folder import RunFolder

    failed = distill(*TRAIN, "--set", "train.lr=1e30", "--set", "train.steps=3", "--out", "again", cwd=desk)
    assert failed.returncode == 1
    done = distill("train", "again", "--resume", "--set", "seed=5", "--set", "train.lr=1e-3", cwd=desk)
    assert done.returncode == 0, done.stderr
    recipe = RunFolder(desk / "again").read_recipe()
    assert (recipe.seed, recipe.train.steps) == (5, 3)
    refused = distill("train", "again", "--resume", "--set", "seed=6", cwd=desk)
    assert refused.returncode == 2
    assert "other settings: seed" in refused.stderr


def test_what_was_filled_in_for_a_call_in_vain_is_filled_in_anew_for_another(tmp_path):
    from distill.core.existing import Existing
    from distill.recipe import load_recipe
    from distill.run_folder import RunFolder
    from distill.stages.opening import open_run, taken_for

    run, said = RunFolder(tmp_path / "run"), load_recipe(None, {"data": "rendered:train=9"})
    open_run(run, load_recipe(said, {"train.steps": 7}), Existing.REFUSE, {"train.steps": "of 9 images"})
    assert taken_for(run, Existing.RESUME, said) is Existing.RESUME
    assert taken_for(run, Existing.RESUME, load_recipe(said, {"export.targets": ("onnx",)})) is Existing.RESUME
    other = load_recipe(said, {"data": "rendered:train=99"})
    assert taken_for(run, Existing.RESUME, other) is Existing.REFUSE
    open_run(run, load_recipe(other, {"train.steps": 77}), Existing.RESUME)
    assert run.read_recipe().train.steps == 77
    (run.checkpoints / "step-00000002").mkdir(parents=True)
    (run.checkpoints / "step-00000002" / "state.json").write_text("{}")
    assert taken_for(run, Existing.RESUME, said) is Existing.RESUME


def test_what_holds_something_finished_or_of_ones_own_is_still_refused(desk):
    from distill.run_folder import RunFolder

    failed = distill(*TRAIN, "--set", "train.lr=1e30", "--set", "train.steps=3", "--out", "mine", cwd=desk)
    assert failed.returncode == 1
    run = RunFolder(desk / "mine")
    assert run.begun_in_vain()
    (run.path / "thesis.txt").write_text("years of work")
    assert "exists" in distill(*TRAIN, "--out", "mine", cwd=desk).stderr
    assert (run.path / "thesis.txt").read_text() == "years of work"
    (run.path / "thesis.txt").unlink()
    (run.checkpoints / "step-00000002").mkdir(parents=True)
    (run.checkpoints / "step-00000002" / "state.json").write_text("{}")
    assert "exists" in distill(*TRAIN, "--out", "mine", cwd=desk).stderr


def test_of_several_processes_none_takes_a_folder_that_another_may_work_in(desk, monkeypatch):
    from distill.core.errors import OutputExistsError
    from distill.core.existing import Existing
    from distill.processes import Place
    from distill.recipe import Recipe
    from distill.run_folder import RunFolder
    from distill.stages import opening

    run = RunFolder(desk / "several")
    opening.open_run(run, Recipe(), Existing.REFUSE)
    monkeypatch.setattr(opening, "this_place", lambda: Place(0, 2, 0))
    with pytest.raises(OutputExistsError):
        opening.open_run(run, Recipe(), Existing.REFUSE)


@pytest.mark.parametrize(
    ("content", "named"), [("{", "damaged or cut short"), ("{}", "holds no recipe"), ('{"recipe": {"nokey": 1}}', "at nokey")]
)  # fmt: skip
def test_a_run_whose_record_is_damaged_is_an_error_for_people_by_every_verb(desk, runs, content, named):
    shutil.rmtree(desk / "torn", ignore_errors=True)
    shutil.copytree(runs / "student", desk / "torn")
    (desk / "torn" / "resolved.json").write_text(content)
    for verb in ("eval", "export", "lint", "demo"):
        assert named in distill(verb, "torn", cwd=desk).stderr, verb
    for verb in ("train", "run", "reinforce"):
        assert named in distill(verb, "torn", "--resume", cwd=desk).stderr, verb


def test_damaged_figures_are_named_by_what_reads_them(desk, runs):
    shutil.copytree(runs / "student", desk / "figures")
    (desk / "figures" / "eval").mkdir()
    (desk / "figures" / "eval" / "student.json").write_text("{")
    for words in (["report", "figures"], ["compare", "figures", "figures"], ["push", "figures", "sent"]):
        failed = distill(*words, cwd=desk)
        assert failed.returncode == 1
        assert "figures/eval/student.json" in failed.stderr


ADVICE = {
    "compare": (["compare", "student", "student"], "distill run student --resume --target onnx"),
    "report": (["report", "student"], "distill run student --resume --target onnx"),
    "eval of labels": (["eval", "set"], "distill run --data set"),
    "compare of labels": (["compare", "set", "set"], "distill run --data set"),
    "run of a student": (["run", "student", "--resume"], "distill run student --resume --target onnx"),
}


@pytest.mark.parametrize("name", ADVICE)
def test_the_advice_is_a_command_that_is_taken(runs, name, monkeypatch):
    """It passes all checks of a call and would open its folder; what comes after is a run like any other."""
    words, advised = ADVICE[name]
    said = distill(*words, cwd=runs)
    assert said.returncode in (1, 2)
    assert said.stderr.rstrip().endswith(advised)
    reached = []

    def open_folder(run, job, existing, filled):
        from distill.recipe.kept import differing_keys

        kept = run.read_resolved()["recipe"] if run.resolved.exists() else job.model_dump(mode="json")
        assert differing_keys(kept, job.model_dump(mode="json")) == []
        reached.append(run)
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.verbs.run.share_run", open_folder)
    few = ["--set", "train.batch_size=8"] if "--data" in advised else []  # the set has 24 samples
    again = distill(*advised.split()[1:], *few, cwd=runs)
    assert again.returncode == 130, again.stderr
    assert reached


def test_a_home_of_nobody_is_an_error_for_people(tmp_path):
    failed = distill("reinforce", "--data", "~nobody-of-this-name/x", "--out", tmp_path / "o")
    assert failed.returncode == 2
    assert "~NAME" in failed.stderr
    assert not (tmp_path / "o").exists()


def test_an_export_looks_for_its_data_before_it_takes_the_model_in(desk):
    failed = distill("export", "teacher", "--target", "onnx", "--data", "nowhere", "--out", "exported", cwd=desk)
    assert failed.returncode == 2
    assert "nowhere" in failed.stderr
    assert not (desk / "exported").exists()

"""What `distill reinforce --extend` leaves: nothing stale beside the set, and a recipe that goes on being the set's own."""

import json

import pytest

import distill
from distill.core import atomic
from distill.core.errors import DistillError, UsageError
from tests.distill.verbs.test_reinforce import call

SMALL = ["--set", "reinforce.shard_size=16", "--set", "reinforce.batch_size=16", "--verify", 4]
FUNCTION = "def say(images, seeds):\n    return [[f'number {seed % 7} of shapes'] for seed in seeds]\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_teacher):
    """A run with a captioner, a check and a selection, then extended by a view and by a second captioner."""
    place = tmp_path_factory.mktemp("extend")
    for name in ("qa_first", "qa_second"):
        (place / f"{name}.py").write_text(FUNCTION)
    out = place / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        first = call(
            out, "--data", "rendered:train=40,eval=8", "--teacher", tiny_teacher, "--captioner", "python:qa_first:say",
            "--filter", "score:keep=0.5", *SMALL,
        )  # fmt: skip
        refused = call(out, "--extend", "--data", "rendered:train=30,eval=8", status=2)
        resumed = call(out, "--resume")
        second = call(
            out, "--extend", "--captioner", "python:qa_first:say", "--captioner", "python:qa_second:say",
            "--set", "reinforce.views_per_image=3",
        )  # fmt: skip
        again = call(out, "--resume")
    return out, first, refused, resumed, second, again


def test_what_lies_beside_an_extended_set_is_of_the_extended_set(run):
    from reinforced_data.curation.selection import Selection
    from reinforced_data.store.identity import set_identity
    from reinforced_data.store.reader import ReinforcedData

    out, first, _, _, second, again = run
    identity = set_identity(ReinforcedData(out / "reinforced").manifest)
    assert first["verify"]["set_sha256"] != identity
    for name in ("captions.json", "reinforced-verify.json"):
        assert atomic.read_json(out / name)["set_sha256"] == identity
    assert set(second["caption_report"]["sources"]) == {
        "real",
        "synthetic:python:qa_first:say",
        "synthetic:python:qa_second:say",
    }
    assert second["verify"]["views"] == 6  # two samples, three views
    assert Selection.load(out / "selection", ReinforcedData(out / "reinforced")).kept == 20
    assert again == second


def test_a_refused_extension_leaves_the_run_as_it_was(run):
    _, first, refused, resumed, _, _ = run
    assert "source.samples (40 before, 30 now)" in refused
    assert "captioners" not in refused.split("Extending may only add")[0]  # they are the run's own, without being named
    assert resumed == first


def test_a_resume_with_more_teachers_or_captioners_points_to_extend(run):
    out, *_ = run
    recipe = distill.load_recipe(None, [], atomic.read_json(out / "resolved.json")["recipe"])
    more = recipe.model_copy(update={"captioners": (*recipe.captioners, "python:qa_third:say")})
    with pytest.raises(UsageError, match=r"other settings: captioners\. .*--extend"):
        distill.reinforce(more, out=out, resume=True)


def test_other_filters_make_the_selection_anew(run, monkeypatch):
    out, *_ = run
    monkeypatch.syspath_prepend(str(out.parent))
    assert atomic.read_json(out / "selection" / "selection.json")["kept"] == 20
    facts = call(out, "--extend", "--filter", "score:keep=0.25")
    assert facts["selection"] == str(out / "selection")
    assert atomic.read_json(out / "selection" / "selection.json")["kept"] == 10


def test_a_call_that_fails_before_the_plan_can_be_mended_and_repeated(tmp_path, tiny_teacher):
    out = tmp_path / "run"
    message = call(out, "--teacher", tiny_teacher, "--data", tmp_path / "nothing", status=2)
    assert "There is no data" in message
    assert not out.exists()
    assert call(out, "--teacher", tiny_teacher, "--data", "rendered:train=20,eval=8", *SMALL)["samples"] == 20


def test_settings_that_would_do_nothing_are_refused(run, tmp_path):
    stored = run[0] / "reinforced"
    for data, more, named in (
        ("datacompdr:x.tar", ["--captioner", "coca-vitl14"], "--captioner"),
        ("datacompdr:x.tar", ["--calibrate", "--executor", "local"], "--calibrate, --executor"),
        (stored, ["--captioner", "coca-vitl14"], "--captioner"),
        ("rendered", ["--set", "reinforce.images=photos"], "reinforce.images"),
    ):
        assert named in call(tmp_path / "out", "--data", data, *more, status=2)
    assert not (tmp_path / "out").exists()


def test_images_without_captions_are_refused_by_run_before_anything_is_written(run, tmp_path, tiny_teacher):
    from reinforced_data.source import open_source

    place = tmp_path / "bare"
    place.mkdir()
    source = open_source("rendered:train=24,eval=8", "train")
    for index in range(24):
        (place / f"{index:02d}.png").write_bytes(source[index].image)
    given = {"teachers": [str(tiny_teacher)], "data": str(place), "captioners": ["command:cat"]}
    recipe = distill.load_recipe(None, ["train.batch_size=8"], given)
    with pytest.raises(DistillError, match=r"has no evaluation images with captions .* eval\.data"):
        distill.run(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_processes_that_finish_at_once_make_one_selection(run, tmp_path, monkeypatch):
    """Another process saves the same selection between this one's look and its own save."""
    from distill.console import Console
    from distill.run_folder import RunFolder
    from distill.stages.training_data import selection_stage
    from reinforced_data.curation.selection import Selection

    real = Selection.save

    def save(self, folder, overwrite=False):
        real(self, folder)
        real(self, folder, overwrite)

    monkeypatch.setattr(Selection, "save", save)
    recipe = distill.load_recipe(None, [], {"filters": ["score:keep=0.5"]})
    folder = selection_stage(recipe, run[0] / "reinforced", RunFolder(tmp_path), Console())
    assert json.loads((folder / "selection.json").read_text())["kept"] == 20


def test_the_selection_that_was_trained_on_is_recorded_and_not_decided_again(run, tmp_path):
    """Own filters, the selection beside the set, and none: the record says which, whatever the recipe says later."""
    set_folder = run[0] / "reinforced"
    kept = atomic.read_json(run[0] / "selection" / "selection.json")["kept"]
    small = ["train.steps=1", "train.batch_size=8", "student.inherit=none", f"data={set_folder}"]
    for name, more, folder in (
        ("beside", [], run[0] / "selection"),
        ("own", ["filters=['score:keep=0.5']"], tmp_path / "own" / "selection"),
        ("none", ["selection=none"], None),
    ):
        distill.train(settings=[*small, *more], out=tmp_path / name)
        record = atomic.read_json(tmp_path / name / "trained-on.json")
        assert record["set"] == str(set_folder)
        if folder is None:
            assert record["selection"] is None
        else:
            assert record["selection"]["folder"] == str(folder)
            assert record["selection"]["kept"] == (kept if name == "beside" else 20)

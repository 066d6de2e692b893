"""Where data lies: a run keeps absolute places, moved data is found again, and odd file names can be stored."""

import os

import pytest

from distill.core import atomic
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.recipe import Recipe, load_recipe
from distill.run_folder import RunFolder
from distill.stages.opening import open_run
from reinforced_data.source import open_source
from tests.reinforced_data.sources.test_sources import png, put


def test_places_are_kept_absolute_and_names_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "photos" / "a.jpg", png(1))
    put(tmp_path / "rendered" / "a.jpg", png(1))
    cases = {"photos": "photos", "./photos": "photos", "~/photos": "photos", "~/gone": "gone", "./rendered": "rendered"}
    for given, meant in cases.items():
        assert load_recipe(given={"data": given}).data == str(tmp_path / meant), given
    assert load_recipe(given={"data": "images:photos"}).data == f"images:{tmp_path / 'photos'}"
    assert load_recipe(given={"data": "t/{0..3}.tar"}).data == f"{tmp_path}/t/{{0..3}}.tar"
    for name in ("rendered", "rendered:train=16", "hf:org/set", "nowhere"):
        assert load_recipe(given={"data": name}).data == name
    assert load_recipe(settings={"eval.zero_shot": "photos"}).eval.zero_shot == str(tmp_path / "photos")
    assert RunFolder("~/runs/a").path == tmp_path / "runs" / "a"


def test_a_run_goes_on_when_its_data_was_moved_and_not_with_other_data(tmp_path):
    for name in ("old", "other"):
        put(tmp_path / name / "a.jpg", png(1))
    run = RunFolder(tmp_path / "run")
    open_run(run, Recipe(data=str(tmp_path / "old")), Existing.REFUSE)
    (run.checkpoints / "step-00000002").mkdir(parents=True)  # where nothing is finished, other data is another call
    (run.checkpoints / "step-00000002" / "state.json").write_text("{}")
    with pytest.raises(UsageError, match="other settings: data"):
        open_run(run, Recipe(data=str(tmp_path / "other")), Existing.RESUME)
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(UsageError, match=r"was moved.*--data PLACE.*--set data=PLACE"):
        open_source(str(tmp_path / "old"), "train")
    open_run(run, Recipe(data=str(tmp_path / "new")), Existing.RESUME)
    assert run.read_recipe().data == str(tmp_path / "new")


def test_file_names_that_are_not_utf8_can_be_said_and_stored(tmp_path):
    folder = os.fsencode(tmp_path)
    for name, data in (
        (b"caf\xe9.jpg", png(1)),
        (b"caf\xe9.txt", "caf\u00e9".encode("cp1252")),
        (b"odd\xe9.csv", b"x\n"),
    ):
        with open(folder + b"/" + name, "wb") as stream:
            stream.write(data)
    source = open_source(str(tmp_path), "given")
    assert [caption.text for caption in source[0].captions] == ["caf\u00e9"]
    atomic.write_json(tmp_path / "out.json", source.read_as.to_json())
    assert "1 of the first 1 caption files are not UTF-8" in source.read_as.line()
    assert "odd?.csv" in source.read_as.line()


MODELS = {
    "teachers": {
        "dfn-vitl14": "dfn-vitl14",
        "open_clip:ViT-B-32/openai": "open_clip:ViT-B-32/openai",
        "models/clip": "{here}/models/clip",
        "~/models/clip": "{here}/models/clip",
        "open_clip:ViT-B-32@models/a.pt": "open_clip:ViT-B-32@{here}/models/a.pt",
        "open_clip:ViT-B-32@~/models/a.pt": "open_clip:ViT-B-32@{here}/models/a.pt",
        "nowhere": "nowhere",  # refused where it is resolved, by the name that was written
    },
    "captioners": {
        "coca-vitl14": "coca-vitl14",
        "models/clip": "{here}/models/clip",
        "coca:coca_ViT-B-32@~/models/a.pt": "coca:coca_ViT-B-32@{here}/models/a.pt",
        "hf:models/clip": "hf:{here}/models/clip",
        "hf:org/model": "hf:org/model",
        "command:./say.sh 'models/a.pt' --fast": "command:{here}/say.sh {here}/models/a.pt --fast",
        "command:say --to 'x y'": "command:say --to 'x y'",
        "python:my_captions:say": "python:my_captions:say",
    },
    "filters": {
        "score:keep=0.5": "score:keep=0.5",
        "decontaminate:against=~/models, by=all": "decontaminate:against={here}/models, by=all",
        "decontaminate:by=all,against=rendered:train=8": "decontaminate:by=all,against=rendered:train=8",
        'decontaminate:against="models/a,b"': 'decontaminate:against="{here}/models/a,b"',
        "balance:cap=2,concepts=models/a.pt": "balance:cap=2,concepts={here}/models/a.pt",
    },
}


@pytest.mark.parametrize("key", MODELS)
def test_paths_of_models_and_filters_are_kept_absolute(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models" / "clip").mkdir(parents=True)
    for name in ("models/a.pt", "models/a,b", "say.sh"):
        (tmp_path / name).touch()
    for given, meant in MODELS[key].items():
        kept = getattr(load_recipe(given={key: [given]}), key)
        assert kept == (meant.format(here=tmp_path),), given
        assert getattr(load_recipe(load_recipe(given={key: [given]})), key) == kept  # once is enough


def test_other_places_of_a_recipe_are_kept_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("best", "cap/student", "saved"):
        (tmp_path / name).mkdir(parents=True)
    for given in ("best", "./best", "~/best"):
        assert load_recipe(settings={"selection": given}).selection == str(tmp_path / "best")
        assert load_recipe(settings={"student.inherit_from": given}).student.inherit_from == str(tmp_path / "best")
    assert load_recipe(settings={"selection": "none"}).selection == "none"
    assert load_recipe(settings={"data": "hf:saved"}).data == f"hf:{tmp_path / 'saved'}"
    for given in ("labels.txt", "./labels.txt", "~/labels.txt"):
        assert load_recipe(settings={"export.classes": given}).export.classes == str(tmp_path / "labels.txt")
    weights = {"real": 1.0, "synthetic:cap/student": 0.5, "synthetic:coca": 0.25}
    kept = {"real": 1.0, f"synthetic:{tmp_path / 'cap/student'}": 0.5, "synthetic:coca": 0.25}
    assert load_recipe(settings={"captions.weights": weights}).captions.weights == kept
    assert load_recipe().model_fields_set == set()  # what nobody said stays unsaid

"""What models are judged on: all of a place that is given for it, the held-out part of the one that is trained on."""

import json

from distill.console import Console
from distill.core import atomic
from distill.recipe import load_recipe
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evaluation
from distill.stages.read_data import tell_how_read, tell_left_out
from tests.reinforced_data.sources.test_sources import png, put


def photos(place, count):
    for i in range(count):
        put(place / f"{i}.jpg", png(i))
        put(place / f"{i}.txt", f"text {i}")
    return str(place)


def counts(**given):
    return {role: len(source) for role, _, source in open_evaluation(load_recipe(settings=given))}


def test_all_of_a_place_given_for_judging_and_a_tenth_of_the_one_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine, other = photos(tmp_path / "mine", 48), photos(tmp_path / "other", 48)
    for name in ("cat", "dog"):
        put(tmp_path / "classes" / "test" / name / "1.jpg", png(1))
        put(tmp_path / "classes" / "train" / name / "1.jpg", png(2))
    classes = str(tmp_path / "classes")
    assert counts(data=mine) == {"evaluation": 5}
    assert counts(data=mine, **{"eval.data": other}) == {"evaluation": 48}
    assert counts(data=mine, **{"eval.data": "./mine"}) == {"evaluation": 5}  # the same place: 43 of it were trained on
    assert counts(data=mine, **{"eval.zero_shot": other}) == {"evaluation": 5, "zero-shot": 48}
    assert counts(data=mine, **{"eval.data": classes, "eval.zero_shot": classes}) == {"evaluation": 2, "zero-shot": 2}
    assert [source[0].image for _, _, source in open_evaluation(load_recipe(settings={"eval.data": classes, "eval.split": "train"}))] == [png(2)]  # fmt: skip


def test_how_data_was_read_is_said_once_and_kept(tmp_path, capsys):
    put(tmp_path / "mine" / "film.mov", "x")
    recipe = load_recipe(settings={"data": photos(tmp_path / "mine", 20), "eval.data": "rendered:eval=7"})
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    tell_how_read(recipe, run, Console())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "18 samples, read as: images, captions from .txt files" in said[0]
    assert "not read: 1 .mov" in said[0]
    kept = atomic.read_json(run.read_as)
    assert kept["training"]["not_read"] == {".mov": 1}
    assert kept["training"]["line"] in said[0]
    assert (kept["evaluation"]["samples"], kept["evaluation"]["place"]) == (7, "rendered:eval=7")
    json.dumps(kept)


def test_class_folders_are_not_read_whole_for_a_look_at_captions(tmp_path, monkeypatch, capsys):
    from reinforced_data.sources.parts.listing import ListedSource

    for name in ("cat", "dog"):
        for i in range(10):
            put(tmp_path / "mine" / name / f"{i}.jpg", png(i))
    recipe = load_recipe(settings={"data": str(tmp_path / "mine"), "eval.data": "rendered:eval=7"})
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    monkeypatch.setattr(ListedSource, "zero_shot", lambda source: 1 / 0)  # it holds every image
    tell_how_read(recipe, run, Console())
    assert "training data: " not in capsys.readouterr().err


def test_what_a_set_leaves_out_is_said_with_its_reasons(tmp_path, capsys):
    reasons = {
        "no caption": 14,
        "it is HEIC, which is read with: pip install pillow-heif": 3,
        "it has pN": 1,
        "b": 1,
        "c": 1,
        "d": 1,
    }
    atomic.write_json(
        tmp_path / "manifest.json",
        {"samples": 114, "rejected_reasons": reasons, "rejected": [{"key": "k", "reason": "it has p42"}]},
    )
    tell_left_out(tmp_path, Console())
    said = " ".join(capsys.readouterr().err.split())
    assert "114 samples are labelled and 21 left out: 14 (no caption), 3 (it is HEIC" in said
    assert "1 (it has p42)" in said
    assert "1 (b) and 2 for other reasons" in said
    atomic.write_json(tmp_path / "manifest.json", {"samples": 135, "rejected_reasons": {}})
    tell_left_out(tmp_path, Console())
    assert capsys.readouterr().err == ""

"""Evaluation images that were trained on are counted by content, whatever they are called, from the hashes that a set stores."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from distill.core import atomic
from distill.evaluation.evalset import load_evalset
from distill.run_folder import RunFolder
from distill.stages.evaluate import seen_in_training
from distill.verbs.evaluate import evaluate
from reinforced_data.curation.curate import curate
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.stubs import ListSource, make_set, samples, two_teachers

TRAINED = samples(23)


def record(run, set_folder, selection=None):
    atomic.write_json(run.trained_on, {"set": str(set_folder), "selection": selection})


def judged(*images):
    """Evaluation data with new names for what is trained on, and two strangers."""
    known = [replace(TRAINED[index], key=f"other name {index}") for index in images]
    return load_evalset(ListSource([*known, *samples(2, first=100)]))


def test_the_same_bytes_under_other_names_are_counted_once(tmp_path):
    make_set(ListSource(TRAINED), two_teachers(), tmp_path / "set", shard_size=5)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    assert seen_in_training(run, judged(3)) is None  # not known
    record(run, tmp_path / "set")
    assert seen_in_training(run, judged()) == 0
    assert seen_in_training(run, judged(0, 4, 5, 22)) == 4
    twice = load_evalset(ListSource([TRAINED[7], replace(TRAINED[7], key="again"), *samples(2, first=100)]))
    assert seen_in_training(run, twice) == 1
    record(run, tmp_path / "gone")
    assert seen_in_training(run, judged(3)) is None


@dataclass(frozen=True)
class Named:
    """In an embedder's place."""

    name: str


def test_distill_eval_says_it_of_other_data_too(tmp_path, monkeypatch, capsys):
    """It was said by `distill run` alone, so that a student judged on its own training photos looked good."""
    make_set(ListSource(TRAINED), two_teachers(), tmp_path / "set", shard_size=5)
    run, place = RunFolder(tmp_path / "run"), tmp_path / "photos"
    for folder in (run.path, place):
        folder.mkdir()
    record(run, tmp_path / "set")
    for number, sample in enumerate([TRAINED[3], TRAINED[8], *samples(2, first=100)]):
        (place / f"{number}.png").write_bytes(sample.image)
        (place / f"{number}.txt").write_text(f"photo {number}")
    figures = {"model": "run", "retrieval": None, "zero_shot": None}
    monkeypatch.setattr("distill.stages.exporting.any_model.load_any", lambda name: torch.nn.Identity())
    monkeypatch.setattr("distill.evaluation.evalset.teacher_embedder", lambda model: Named("run"))
    monkeypatch.setattr("distill.evaluation.evalset.evaluate_model", lambda *given: figures)
    result = evaluate(run.path, data=place)
    assert result.to_json()["seen_in_training"] == result.seen_in_training == 2
    assert "2 of the evaluation's images were trained on too" in capsys.readouterr().err


def test_what_a_selection_dropped_was_not_trained_on(tmp_path):
    make_set(ListSource(TRAINED), two_teachers(), tmp_path / "set", shard_size=5)
    data = ReinforcedData(tmp_path / "set")
    chosen = curate(data, ("score:keep=0.5",), 0)
    chosen.save(tmp_path / "selection")
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    record(run, tmp_path / "set", {"folder": str(tmp_path / "selection")})
    assert 0 < chosen.kept < len(TRAINED)
    assert seen_in_training(run, judged(*range(len(TRAINED)))) == chosen.kept


def test_samples_are_found_by_the_hash_of_their_images(tmp_path):
    make_set(ListSource(TRAINED), two_teachers(), tmp_path / "set", shard_size=5)
    wanted = {hashlib.sha256(TRAINED[index].image).hexdigest(): index for index in (1, 9, 20)}
    data = ReinforcedData(tmp_path / "set")
    found = dict(data.with_images([*wanted, "0" * 64]))
    assert {found[index]: data.key(index) for index in found} == {
        image: TRAINED[index].key for image, index in wanted.items()
    }
    assert np.all([data.image_sha256(index) == image for index, image in found.items()])

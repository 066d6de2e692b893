"""What a student's figures are worth: paired intervals against another library's, and each word of judgement by figures made by hand."""

import numpy as np
import pytest
import scipy.stats

from distill.evaluation import verdict as verdicts
from distill.evaluation.metrics import interval
from distill.evaluation.verdict import METRICS, gain, hits_as_text, verdict

RETRIEVAL = METRICS[1]


def judged(role, hits, owner, **more):
    low, high = interval(hits, owner)
    figures = {"t2i_r1": hits.mean() * 100, "t2i_r1_ci95": [low, high], "images": int(owner.max()) + 1}
    return {
        "role": role,
        "retrieval": figures,
        "zero_shot": None,
        "data": "d",
        "hits": {"t2i_r1": hits_as_text(hits, owner)},
        **more,
    }


def drawn(rng, share, owner):
    return (rng.random(len(owner)) < share).astype(float)


def test_a_paired_interval_is_the_bootstrap_of_differences_and_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    owner = np.arange(400)
    plain = drawn(rng, 0.3, owner)
    student = np.maximum(plain, drawn(rng, 0.08, owner))  # finds what the other finds, and some more
    one, other = judged("student", student, owner), judged("plain", plain, owner)
    found = gain(one, other, RETRIEVAL)
    assert found["paired"]
    assert found["points"] == pytest.approx((student - plain).mean() * 100)
    theirs = scipy.stats.bootstrap(
        (student - plain,), np.mean, method="percentile", n_resamples=5000, rng=1
    ).confidence_interval
    assert found["low"] == pytest.approx(theirs.low * 100, abs=0.6)
    assert found["high"] == pytest.approx(theirs.high * 100, abs=0.6)
    assert found["low"] > 0
    for item in (one, other):  # as files of older versions are
        del item["hits"]
    old = gain(one, other, RETRIEVAL)
    assert not old["paired"]
    assert old["high"] - old["low"] > 1.5 * (found["high"] - found["low"])


def test_captions_of_one_image_are_drawn_together():
    owner = np.repeat(np.arange(60), [1, 4] * 30)
    hits = (owner % 3 == 0).astype(float)  # found together, missed together
    text = hits_as_text(hits, owner)
    assert [len(word) for word in text.split()] == [1, 4] * 30
    found = gain(judged("student", hits, owner), judged("plain", np.zeros(len(owner)), owner), RETRIEVAL)
    assert (found["low"], found["high"]) == pytest.approx(interval(hits, owner))
    alone = interval(hits)
    assert found["high"] - found["low"] > 1.3 * (alone[1] - alone[0])


CASES = {  # word: shares of the teacher, the student and the plain student that are found
    verdicts.USABLE: (0.6, 0.5, 0.2),
    verdicts.FAR: (0.9, 0.3, 0.1),
    verdicts.SAME: (0.6, 0.31, 0.3),
    verdicts.WORSE: (0.6, 0.2, 0.4),
    verdicts.CHANCE: (0.6, 0.002, 0.002),
    verdicts.ALONE: (0.6, 0.5, None),
}


@pytest.mark.parametrize("word", CASES)
def test_each_word_by_its_figures(word):
    teacher, student, plain = CASES[word]
    rng, owner = np.random.default_rng(3), np.arange(500)
    evals = [
        judged("teacher", drawn(rng, teacher, owner), owner),
        judged("student", drawn(rng, student, owner), owner, seen_in_training=7),
    ]
    if plain is not None:
        evals.append(judged("plain", drawn(rng, plain, owner), owner))
    found = verdict(evals, {"teacher": 100.0, "student": 23.0})
    assert found["word"] == word
    assert (found["images"], found["chance"], found["seen"], found["size_share"]) == (500, 0.2, 7, 23.0)
    assert found["share"] == pytest.approx(100 * evals[1]["retrieval"]["t2i_r1"] / evals[0]["retrieval"]["t2i_r1"])
    assert ("plain" in found["gains"]) == (plain is not None)


def test_fewer_images_than_a_hundred_are_too_few_to_call_a_student_usable():
    for images, word in ((99, verdicts.FEW), (100, verdicts.USABLE)):
        owner = np.arange(images)
        shares = {"teacher": 0.9, "student": 0.8, "plain": 0.1}
        evals = [judged(role, (owner < images * share).astype(float), owner) for role, share in shares.items()]
        assert verdict(evals, {})["word"] == word
        assert verdict(evals, {})["lost"] is False


def test_what_is_judged_on_other_data_is_not_compared():
    owner = np.arange(50)
    evals = [judged("student", np.ones(50), owner), {**judged("plain", np.zeros(50), owner), "data": "other"}]
    assert verdict(evals, {})["gains"] == {}
    assert verdict(evals[1:], {}) is None


def test_what_inheritance_and_distillation_brought_are_told_apart():
    owner = np.arange(100)
    by = {"student": 60, "plain": 5, "random-start": 20, "no-teacher": 35, "start": 70}
    evals = [judged(role, (owner < count).astype(float), owner) for role, count in by.items()]
    gains = verdict(evals, {})["gains"]
    assert {name: found["points"] for name, found in gains.items()} == pytest.approx(
        {"plain": 55, "inheritance": 40, "distillation": 25, "training": -10}
    )

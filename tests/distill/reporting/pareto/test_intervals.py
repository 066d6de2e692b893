"""How far two students lie apart: the interval against the textbook's, and against how often it holds the truth."""

import math

import numpy as np
import pytest

from distill.evaluation.metrics import difference_interval, interval
from distill.evaluation.verdict import hits_as_text
from distill.reporting.pareto.intervals import differences


def test_of_two_symmetric_intervals_it_is_the_root_of_the_sum_of_squares():
    low, high = difference_interval((10.0, 7.0, 13.0), (15.0, 11.0, 19.0))
    assert (low, high) == pytest.approx((5 - math.hypot(3, 4), 5 + math.hypot(3, 4)))


def test_it_holds_the_true_difference_of_two_shares_about_95_times_of_100():
    rng, n, a, b = np.random.default_rng(0), 400, 0.3, 0.36

    def wilson(hits):
        z = 1.96
        middle, half = (hits + z * z / 2) / (n + z * z), z * math.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
        return hits / n, middle - half, middle + half

    held = 0
    for one, other in zip(rng.binomial(n, a, 2000), rng.binomial(n, b, 2000), strict=True):
        low, high = difference_interval(wilson(one), wilson(other))
        held += low <= b - a <= high
    assert 0.935 < held / 2000 < 0.965


def judged(name, hits, *, fingerprint="f", task="shapes", zero_shot=None, keep=True):
    """Facts and the student's record of a run whose images were classified rightly (1) or not (0)."""
    low, high = interval(hits)
    figures = {"task": task, "images": len(hits), "classes": 4, "top1": 100 * hits.mean(), "top1_ci95": [low, high]}
    record = {"zero_shot": figures, "retrieval": None, "data": {"name": name, "fingerprint": fingerprint},
              "hits": {"zero_shot_top1": hits_as_text(hits)} if keep else {}}  # fmt: skip
    return {"out": f"runs/{name}", "recipe": {"eval": {"zero_shot": zero_shot}}}, record


def test_runs_that_were_judged_on_the_same_samples_are_compared_sample_by_sample():
    rng = np.random.default_rng(1)
    first = (rng.random(400) < 0.5).astype(float)
    other = first.copy()
    other[np.flatnonzero(first == 0)[:12]] = 1  # all that the first finds, and twelve more
    pairs = [judged("a", first), judged("b", other), judged("c", first)]
    found = differences(*map(list, zip(*pairs, strict=True)))
    assert [(entry["run"], entry["points"], entry["paired"]) for entry in found] == [
        ("runs/b", 3.0, True),
        ("runs/c", 0.0, True),
    ]
    # The standard error of a mean of differences, in percent.
    half = 1.96 * 100 * (other - first).std() / math.sqrt(400)
    assert (found[0]["low"], found[0]["high"]) == pytest.approx((3 - half, 3 + half), abs=0.35)
    assert found[0]["says"].startswith("b against a: zero-shot top-1 +3.0 points (+")
    assert found[0]["says"].endswith(", paired)")
    assert found[1]["says"].endswith("(+0.0 to +0.0, paired); not distinguishable")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"fingerprint": "g"}, "different data"),
        ({"task": "letters"}, "different classes"),
        ({"zero_shot": "elsewhere"}, "different classes"),
        ({"keep": False}, "an older version"),
    ],
)
def test_others_are_compared_by_both_intervals_and_that_is_said(other, why):
    rng = np.random.default_rng(1)
    hits = (rng.random(400) < 0.5).astype(float)
    better = np.maximum(hits, rng.random(400) < 0.05)
    pairs = [judged("a", hits), judged("b", better, **other)]
    (found,) = differences(*map(list, zip(*pairs, strict=True)))
    figures = [(100 * values.mean(), *interval(values)) for values in (hits, better)]
    assert not found["paired"]
    assert (found["low"], found["high"]) == pytest.approx(difference_interval(*figures), abs=1e-3)
    assert f"unpaired: {'a run of ' if 'older' in why else 'they were judged on '}{why}" in found["says"]

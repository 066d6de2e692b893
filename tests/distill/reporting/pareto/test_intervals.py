"""How far two students lie apart: the interval against the textbook's, and against how often it holds the truth."""

import math

import numpy as np
import pytest

from distill.reporting.pareto.intervals import difference_interval, differences


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


def test_students_alone_are_compared_with_the_first_and_what_cannot_be_told_is_called_so():
    def row(run, role, top1, ends):
        return {"run": f"runs/{run}", "role": role, "zero_shot_top1": top1, "t2i_r1": None, "i2t_r1": 1.0,
                "intervals": {"zero_shot_top1": ends}}  # fmt: skip

    rows = [
        row("a", "student", 50.0, [48.0, 52.0]), row("a", "plain student", 10.0, [9.0, 11.0]),
        row("b", "student", 51.0, [49.0, 53.0]), row("c", "student", 60.0, [58.0, 62.0]),
    ]  # fmt: skip
    found = differences(rows)
    assert [(entry["run"], entry["points"]) for entry in found] == [("runs/b", 1.0), ("runs/c", 10.0)]
    assert found[0]["says"].startswith("b against a: zero-shot top-1 +1.0 points (-1.8 to +3.8)")
    assert ["not distinguishable" in entry["says"] for entry in found] == [True, False]

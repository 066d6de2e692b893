"""The order of an epoch: a permutation, random access, a function of (seed, epoch), and no memory for a billion."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforced_data.training.order import EpochOrder


@given(count=st.integers(1, 5000), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
@settings(max_examples=60)
def test_every_count_is_permuted(count, seed, epoch):
    assert np.array_equal(np.sort(EpochOrder(seed, epoch, count).samples(0, count)), np.arange(count))


@pytest.mark.parametrize("count", [4**5 - 1, 4**5, 4**5 + 1, 100_003])
def test_a_part_is_the_same_as_the_part_of_the_whole(count):
    whole = EpochOrder(3, 1, count).samples(0, count)
    for start, stop in ((0, 7), (500, 900), (count - 3, count), (4, 4)):
        assert np.array_equal(EpochOrder(3, 1, count).samples(start, stop), whole[start:stop])


def test_seed_and_epoch_and_nothing_else_decide():
    orders = [EpochOrder(seed, epoch, 1000).samples(0, 1000) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    for i, a in enumerate(orders):
        for j, b in enumerate(orders):
            # Two independent permutations agree in one place on average (Poisson): never in more than a dozen.
            assert (a == b).sum() == 1000 if i == j else (a == b).sum() < 12


def test_each_sample_is_equally_likely_in_each_place_and_neighbours_part():
    count, epochs = 10, 4000
    seen = np.zeros((count, count))
    pairs = np.zeros((count, count))
    for epoch in range(epochs):
        order = EpochOrder(11, epoch, count).samples(0, count)
        seen[np.arange(count), order] += 1
        pairs[order[:-1], order[1:]] += 1
    expected = epochs / count
    chi2 = ((seen - expected) ** 2 / expected).sum()
    assert chi2 < 140  # 81 degrees of freedom: 140 is beyond 99.99 %
    off = pairs[~np.eye(count, dtype=bool)]
    following = epochs * (count - 1) / off.size
    assert ((off - following) ** 2 / following).sum() < 150  # 89 degrees of freedom


def test_a_billion_samples_cost_no_memory():
    order = EpochOrder(0, 0, 10**9)
    tracemalloc.start()
    drawn = [order.samples(place, place + 4096) for place in (0, 5 * 10**8, 10**9 - 4096)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    together = np.concatenate(drawn)
    assert len(np.unique(together)) == len(together)
    assert together.min() >= 0
    assert together.max() < 10**9
    with pytest.raises(IndexError):
        order.samples(10**9, 10**9 + 1)

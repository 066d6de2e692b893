"""Random streams: stored views, orders and captions depend on these numbers, so they may never change."""

import numpy as np
import pytest

from distill.core.streams import Stream, rng, sequence

# What each use drew before the streams had names; sets and runs of that time must be continued alike.
NUMBERS = {
    Stream.VIEWS: 1,
    Stream.ORDER: 2,
    Stream.PAIRS: 3,
    Stream.VERIFY: 4,
    Stream.CAPTIONS: 5,
    Stream.CAPTION_REPORT: 7,
    Stream.CALIBRATE: 9,
    Stream.CLUSTERS: 11,
    Stream.MIX: 12,
}


def test_every_stream_keeps_its_number():
    assert {stream: stream.value for stream in Stream} == NUMBERS


@pytest.mark.parametrize("words", [(), (7,), (3, 2**40)])
@pytest.mark.parametrize("stream", Stream)
def test_the_numbers_are_those_of_philox_under_a_seed_sequence(stream, words):
    expected = np.random.Generator(np.random.Philox(np.random.SeedSequence((11, NUMBERS[stream], *words))))
    assert rng(stream, 11, *words).integers(2**63, size=8).tolist() == expected.integers(2**63, size=8).tolist()
    bits = np.random.SeedSequence((11, NUMBERS[stream], *words)).generate_state(4, np.uint64)
    assert sequence(stream, 11, *words).generate_state(4, np.uint64).tolist() == bits.tolist()


def test_streams_seeds_and_words_draw_apart():
    draws = [rng(stream, seed, word).integers(2**63) for stream in Stream for seed in (0, 1) for word in (0, 1)]
    assert len(set(draws)) == len(draws)

"""Streams of random numbers: one number for every use of a run's seed, so that no two uses draw the same numbers.

A stream of Philox (counter-based, so cheap to make anew for every sample) is chosen by (seed, stream, further words such
as an epoch or a sample's index), hashed by NumPy's SeedSequence. What is drawn for one sample therefore depends on nothing
that was drawn before, which is what makes a resumed run repeat a whole one.
"""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Stream(IntEnum):
    """What random numbers are for. Stored sets depend on these numbers: a new use takes a new one, none is ever changed."""

    VIEWS = 1  # words: the sample's index in its source
    ORDER = 2  # of an epoch's samples; words: the epoch
    PAIRS = 3  # which view and caption a pair takes; words: the epoch, the sample's index
    VERIFY = 4  # which samples are checked
    CAPTIONS = 5  # the seed that captioners get; words: the sample's index in its source
    CAPTION_REPORT = 7  # which samples are read
    CALIBRATE = 9  # which held-out pairs fit a logit scale, and their views
    CLUSTERS = 11  # k-means: its sample and its start
    MIX = 12  # soft-cap sampling


def sequence(stream: Stream, seed: int, *words: int) -> "np.random.SeedSequence":
    """The seed sequence of a stream, for whoever needs its bits instead of a generator."""
    import numpy as np

    return np.random.SeedSequence((seed, int(stream), *words))


def rng(stream: Stream, seed: int, *words: int) -> "np.random.Generator":
    """The generator of a stream; always at its beginning."""
    import numpy as np

    return np.random.Generator(np.random.Philox(sequence(stream, seed, *words)))

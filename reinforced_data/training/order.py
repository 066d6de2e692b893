"""The order of an epoch: a permutation that is computed place by place, so that a billion samples cost no memory.

A Feistel network permutes the numbers below a power of four, and a number that lands outside the set is sent through
again until it lands inside (cycle walking; Black and Rogaway, CT-RSA 2002): a permutation of exactly `count` numbers
with random access. Good enough to shuffle by; no cipher.
"""

import numpy as np

from distill.core.arrays import Array
from distill.core.streams import Stream, sequence

_ROUNDS = 8


class EpochOrder:
    """The order in which an epoch visits `count` samples; depends on (seed, epoch) alone."""

    def __init__(self, seed: int, epoch: int, count: int) -> None:
        self.count = count
        self._half = max(1, (max(1, count - 1).bit_length() + 1) // 2)  # bits; the domain is 4 ** half >= count
        self._keys = sequence(Stream.ORDER, seed, epoch).generate_state(_ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.count

    def samples(self, start: int, stop: int) -> Array:
        """The sample numbers at places start <= place < stop, int64. Raises IndexError outside the epoch."""
        if not 0 <= start <= stop <= self.count:
            raise IndexError((start, stop))
        numbers = self._once(np.arange(start, stop, dtype=np.uint64))
        outside = np.flatnonzero(numbers >= self.count)
        while outside.size:
            numbers[outside] = self._once(numbers[outside])
            outside = outside[numbers[outside] >= self.count]
        return numbers.astype(np.int64)

    def _once(self, numbers: Array) -> Array:
        bits = np.uint64(self._half)
        mask = np.uint64((1 << self._half) - 1)
        left, right = numbers >> bits, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        joined: Array = (left << bits) | right
        return joined


def _mixed(words: Array) -> Array:
    """A well-stirred 64-bit hash of each word (the finaliser of SplitMix64; Steele et al., OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    stirred: Array = words ^ (words >> np.uint64(31))
    return stirred

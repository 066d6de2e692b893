"""The perceptual hash of an image: 64 bits that survive another size, another JPEG quality, a little noise.

The "phash" of the ImageHash library to the bit (32 x 32 grey, DCT, the 8 x 8 lowest frequencies against their median),
written out because that library brings PyWavelets along for another hash. Mirrored, cropped and rotated copies have
other hashes; that is left to embeddings.
"""

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from distill.core.arrays import Array
from distill.core.machine import usable_cores
from reinforced_data.pixels.decode import BadImageError, decode_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

BITS = 64
_SIDE, _LOW = 32, 8
_FLAT = 1.0  # grey levels; an image whose 32 x 32 copy varies less has no structure to hash
_CANDIDATES = 1 << 20


def perceptual_hash(image: "Image") -> int | None:
    """64 bits, the lowest frequency in the highest bit; None for an image of one shade, which looks like any other."""
    from PIL import Image
    from scipy.fft import dct

    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float64)
    if np.ptp(grey) <= _FLAT:
        return None
    low = dct(dct(grey, axis=0), axis=1)[:_LOW, :_LOW]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def hashes_of(images: Iterable[tuple[str, bytes]]) -> Iterator[int | None]:
    """The hash of each (key, encoded image), in order; None where it has none or does not decode. In threads."""
    workers = min(8, usable_cores())
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for item in images:
            waiting.append(pool.submit(_hash_one, *item))
            if len(waiting) >= workers * 4:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _hash_one(key: str, data: bytes) -> int | None:
    try:
        return perceptual_hash(decode_rgb(data, key))
    except BadImageError:
        return None


def near_hashes(left: Array, right: Array, bits: int) -> Iterator[tuple[Array, Array, Array]]:
    """All pairs (i, j, distance) with left[i] and right[j] at most `bits` apart; [n] and [m] uint64. Pairs may repeat.

    The hash is cut into bits + 1 bands: two hashes that differ in no more than `bits` places agree in a whole band, so
    that only those are compared, and none is missed. Candidates are made a million at a time.
    """
    edges = np.linspace(0, BITS, bits + 2).round().astype(int)
    for low, high in itertools.pairwise(edges.tolist()):
        shift, mask = np.uint64(low), np.uint64((1 << (high - low)) - 1)
        a, b = (left >> shift) & mask, (right >> shift) & mask
        order = np.argsort(b, kind="stable")
        first = np.searchsorted(b[order], a, side="left")
        counts = np.searchsorted(b[order], a, side="right") - first
        parts = np.cumsum(counts) // _CANDIDATES
        for part in np.unique(parts):
            rows = np.flatnonzero(parts == part)
            i = np.repeat(rows, counts[rows])
            offset = np.arange(len(i)) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
            j = order[np.repeat(first[rows], counts[rows]) + offset]
            distance = _bit_counts()[(left[i] ^ right[j]).view(np.uint16).reshape(-1, 4)].sum(1)
            near = distance <= bits
            yield i[near], j[near], distance[near]


@cache
def _bit_counts() -> Array:
    counts: Array = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(1)
    return counts

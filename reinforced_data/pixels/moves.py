"""Shears and rotations by nearest pixels, as moves: where each pixel comes from is found once, by Pillow, and kept.

RandAugment's magnitudes are few, so the same moves come again and again. A shear moves whole runs of pixels, which a copy each
does; for the rest every pixel is looked up.
"""

import threading
from collections import OrderedDict
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from distill.core.arrays import Array
from reinforced_data.pixels.scratch import Scratch
from reinforced_data.pixels.views import operation

_MOST_KEPT = 24  # moves a thread; of 224 x 224 pixels one takes up to 400 kB
_MOST_COPIES = 80  # of runs; more take longer than to look every pixel up
_Key = tuple[str, float, int, int]
_scratch = Scratch()


class _Moves(NamedTuple):
    """(to, from) of the runs that are copied, or per pixel the number of the one that it becomes, 0 = black, 1 = the first."""

    runs: list[tuple[tuple[slice, slice], tuple[slice, slice]]] | None
    pixels: Array | None


class _Kept(threading.local):
    """A thread's moves."""

    def __init__(self) -> None:
        # None: met once; a magnitude that never comes again is not worth it.
        self.moves: OrderedDict[_Key, _Moves | None] = OrderedDict()

    def meet(self, key: _Key) -> None:
        """Remember a key, and forget the oldest one, of those that were met once if there are any."""
        self.moves[key] = None
        if len(self.moves) > _MOST_KEPT:
            once = next((other for other, moves in self.moves.items() if moves is None), key)
            del self.moves[once if once != key else next(iter(self.moves))]


_kept = _Kept()


def moved(name: str, pixels: Array, magnitude: float) -> Array | None:
    """The operation's result on [H, W, 3] uint8 as an array of its own; None for a magnitude that is met for the first time."""
    height, width = pixels.shape[:2]
    key = (name, magnitude, height, width)
    if key not in _kept.moves:
        _kept.meet(key)
        return None
    moves = _kept.moves[key]
    if moves is None:
        moves = _kept.moves[key] = _find(name, magnitude, height, width)
    if moves.runs is not None:
        result = np.zeros((height, width, 3), np.uint8)
        for to, start in moves.runs:
            result[to] = pixels[start]
        return result
    assert moves.pixels is not None
    padded = _scratch.array("padded", (height * width + 1, 3))
    padded[0] = 0
    padded[1:].reshape(height, width, 3)[:] = pixels
    looked_up: Array = padded.take(moves.pixels, 0).reshape(height, width, 3)
    return looked_up


def _find(name: str, magnitude: float, height: int, width: int) -> _Moves:
    from PIL import Image

    numbers = np.arange(
        1, height * width + 1, dtype=np.uint32
    )  # as colours, so that Pillow moves them as it does pixels
    colours = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8)
    image = Image.fromarray(colours.reshape(height, width, 3))
    red, green, blue = np.asarray(operation(name)(image, magnitude)).astype(np.int64).transpose(2, 0, 1)
    comes = red | green << 8 | blue << 16
    runs = _row_runs(comes) or _column_runs(comes)
    return _Moves(runs, None if runs is not None else comes.ravel())


def _row_runs(comes: Array) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]] | None:
    """Runs of rows that are moved by the same number of columns; None where these pixels are moved otherwise, or in too many."""
    height, width = comes.shape
    here = np.arange(height * width).reshape(height, width)
    by = np.where(comes > 0, comes - 1 - here, np.iinfo(np.int64).min).max(1)  # of each row, to the right in its source
    edges = [0, *(np.flatnonzero(by[1:] != by[:-1]) + 1).tolist(), height]
    if len(edges) > _MOST_COPIES:
        return None
    runs, made = [], np.zeros_like(comes)
    for start, end in pairwise(edges):
        shift = int(by[start])
        if abs(shift) < width:
            to = (slice(start, end), slice(max(0, -shift), width - max(0, shift)))
            source = (slice(start, end), slice(max(0, shift), width - max(0, -shift)))
            made[to] = here[source] + 1
            runs.append((to, source))
    return runs if (made == comes).all() else None


def _column_runs(comes: Array) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]] | None:
    """The same of columns that are moved by rows."""
    height, width = comes.shape
    turned = np.where(comes > 0, (comes - 1) % width * height + (comes - 1) // width + 1, 0).T
    runs = _row_runs(np.ascontiguousarray(turned))
    return runs and [(to[::-1], start[::-1]) for to, start in runs]

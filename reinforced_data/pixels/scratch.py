"""Memory that a thread uses again for every image: fresh memory costs a fault per page, a quarter of decoding's time."""

import math
import threading
from typing import Any

import numpy as np

from distill.core.arrays import Array

MOST_BYTES = 64 << 20  # what a thread keeps of each kind; larger images get memory of their own, once


class Scratch(threading.local):
    """Arrays by kind, and who filled them last."""

    def __init__(self) -> None:
        self._arrays: dict[object, Array] = {}
        self._filled: dict[object, tuple[Any, ...]] = {}

    def array(self, kind: object, shape: tuple[int, ...], dtype: Any = np.uint8) -> Array:
        """An array of `shape`, whose content is of no one; the next call for the same kind takes it away."""
        self._filled.pop(kind, None)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > MOST_BYTES:
            return np.empty(shape, dtype)
        kept = self._arrays.get(kind)
        if kept is None or kept.size < size:
            kept = self._arrays[kind] = np.empty(size, np.uint8)
        array: Array = kept[:size].view(dtype).reshape(shape)
        return array

    def fill(self, kind: object, owner: object, content: Array) -> None:
        """Remember that `owner` has put `content` into the array of `kind`."""
        self._filled[kind] = (owner, content)

    def content(self, kind: object, owner: object) -> Array | None:
        """What `owner` has put there, if nobody took the array since."""
        filled = self._filled.get(kind)
        return filled[1] if filled is not None and filled[0] is owner else None

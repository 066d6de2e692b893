"""Rows of one image are one sample: found by equal bytes, since sets repeat an image for each of its captions."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from distill.core.arrays import Array
from reinforced_data.sources.parts.kept.compact import AllBut, Column

MOST_HASHED_BYTES = 16 << 30  # a place of more is hashed whole only if its first rows repeat images
PROBED_ROWS = 5000
OFTEN = 1.5  # rows per image
IMAGE_ID_NAMES = ("image_id", "img_id", "imgid", "imageid")


class Groups(Sequence[Sequence[int]]):
    """Rows that are one sample each, in order of first appearance; rows that are alone cost nothing.

    Args:
        count: of all rows.
        merged: [n, 2] int64, a row that is not the first of its group and the first one of it; ascending by the former.
    """

    def __init__(self, count: int, merged: Array) -> None:
        self.rows = count
        self.firsts = AllBut(count, merged[:, 0])
        order = np.argsort(merged[:, 1], kind="stable")
        self._first, self._more = merged[order, 1], merged[order, 0]

    def __len__(self) -> int:
        return len(self.firsts)

    def __getitem__(self, group: Any) -> Any:
        if isinstance(group, slice):
            return [self[one] for one in range(len(self))[group]]
        first = self.firsts[group]
        start, end = np.searchsorted(self._first, [first, first + 1])
        return [first, *self._more[start:end].tolist()]


class Grouped(Sequence[Sequence[int]]):
    """Rows that are one sample each, where images come again often: in order of first appearance.

    Args:
        starts: [samples + 1] int64, where the rows of each lie in `order`, [n] int64.
    """

    def __init__(self, starts: Array, order: Array) -> None:
        self.starts, self.order = starts, order
        self.rows = len(order)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, group: Any) -> Any:
        if isinstance(group, slice):
            return [self[one] for one in range(len(self))[group]]
        group = range(len(self))[group]
        return self.order[self.starts[group] : self.starts[group + 1]].tolist()

    def first(self, group: int) -> int:
        """The first row of a sample."""
        return int(self.order[self.starts[group]])

    @property
    def firsts(self) -> Array:
        """The first row of each, [samples]."""
        return self.order[self.starts[:-1]]


class Digests:
    """16 bytes a row, by which rows are found equal; a row of None equals no other."""

    def __init__(self) -> None:
        self._data = Column("i8")

    @classmethod
    def of(cls, digests: Iterable[bytes | None]) -> "Digests":
        """Those of 16 bytes each."""
        made = cls()
        for digest in digests:
            made.append(digest)
        return made

    def append(self, digest: bytes | None) -> None:
        """Add a row."""
        self._data.extend(digest if digest is not None else _digest(b"alone %d" % len(self)))

    def append_text(self, text: str | None) -> None:
        """Add a row that equals others of the same text."""
        self.append(None if text is None else text_digest(text))

    def __len__(self) -> int:
        return len(self._data) // 2

    def grouped(self) -> Grouped | None:
        """Rows grouped, None when no two are equal."""
        pairs = self._data.done().reshape(-1, 2)
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: equal ones by their row
        new = np.ones(len(order), np.bool_)
        new[1:] = (pairs[order[1:]] != pairs[order[:-1]]).any(1)
        if new.all():
            return None
        starts = np.flatnonzero(new)
        firsts = order[starts]
        sizes = np.diff(np.append(starts, len(order)))
        by_first = np.argsort(firsts)
        rows = order[np.repeat(starts[by_first], sizes[by_first]) + _counted(sizes[by_first])]
        return Grouped(np.append(0, np.cumsum(sizes[by_first])).astype(np.int64), rows.astype(np.int64))


def _counted(sizes: Array) -> Array:
    """0, 1, 2, ... up to each of the sizes in turn."""
    ends = np.cumsum(sizes)
    numbers: Array = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    return numbers


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def text_digest(text: str) -> bytes:
    """The hash by which texts are compared."""
    return _digest(text.encode("utf-8", "surrogatepass"))


def same_images(
    images: Callable[[], Iterable[bytes | None]],
    size_bytes: int,
    key: str | None = None,
    ids: Callable[[], Iterable[str | None]] | None = None,
) -> Grouped | None:
    """Rows grouped by image, or None when no image repeats.

    By a column of image ids alone; by another id that repeats together with the bytes; else by the bytes. Where every row has
    an id of its own they must repeat often (rows of captions), since a set may hold a photo twice.

    Args:
        images: begins an iteration over the encoded image of every row; None where it cannot be had.
        size_bytes: of all images, about.
        key, ids: the id column and its cells as texts, where there is one; None where a cell is empty.
    """
    repeated = ids is not None and Digests.of(text_digest(str(value)) for value in ids()).grouped() is not None
    if ids is not None and repeated and (key or "").lower() in IMAGE_ID_NAMES:
        return Digests.of(None if value is None else text_digest(value) for value in ids()).grouped()
    if size_bytes > MOST_HASHED_BYTES and not _begins_with_repeats(images()):
        return None
    digests = map(digest_of, images())
    if ids is not None and repeated:
        both = zip(digests, ids(), strict=True)
        return Digests.of(digest and text_digest(f"{digest.hex()} {value}") for digest, value in both).grouped()
    groups = Digests.of(digests).grouped()
    return groups if ids is None or (groups and groups.rows >= OFTEN * len(groups)) else None


def _begins_with_repeats(images: Iterable[bytes | None]) -> bool:
    probed: set[bytes] = set()
    for row, image in enumerate(images):
        digest = digest_of(image)
        if digest in probed:
            return True
        if row == PROBED_ROWS:
            break
        if digest is not None:
            probed.add(digest)
    return False


def digest_of(image: bytes | None) -> bytes | None:
    """The hash by which images are compared; None for none."""
    return hashlib.sha256(image).digest()[:16] if image else None


def told(groups: Groups | Grouped | None) -> str:
    """What was merged, for people; "" when nothing was."""
    if not groups:
        return ""
    return f"{groups.rows} rows of {len(groups)} images are one sample each" if groups.rows > len(groups) else ""

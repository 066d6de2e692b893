"""Rows of one image are one sample: found by equal bytes, since sets repeat an image for each of its captions."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from distill.core.arrays import Array
from reinforced_data.sources.parts.kept.compact import AllBut

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


def groups_of(marks: Sequence[Hashable | None]) -> list[list[int]] | None:
    """Rows grouped by equal mark, in order of first appearance; None when no two are equal. A row of None is alone."""
    groups: dict[Hashable, list[int]] = {}
    for row, mark in enumerate(marks):
        groups.setdefault(("alone", row) if mark is None else mark, []).append(row)
    return list(groups.values()) if len(groups) < len(marks) else None


def same_images(
    images: Callable[[], Iterable[bytes | None]],
    size_bytes: int,
    key: str | None = None,
    ids: Sequence[Any] | None = None,
) -> list[list[int]] | None:
    """Rows grouped by image, or None when no image repeats.

    By a column of image ids alone; by another id that repeats together with the bytes; else by the bytes. Where every row has
    an id of its own they must repeat often (rows of captions), since a set may hold a photo twice.

    Args:
        images: begins an iteration over the encoded image of every row; None where it cannot be had.
        size_bytes: of all images, about.
        key, ids: the id column and its cells, where there is one.
    """
    repeated = ids is not None and len({*map(str, ids)}) < len(ids)
    if ids is not None and repeated and (key or "").lower() in IMAGE_ID_NAMES:
        return groups_of([None if value is None else str(value) for value in ids])
    if size_bytes > MOST_HASHED_BYTES and not _begins_with_repeats(images()):
        return None
    digests = [digest_of(image) for image in images()]
    if ids is not None and repeated:
        return groups_of([digest and (str(value), digest) for digest, value in zip(digests, ids, strict=True)])
    groups = groups_of(digests)
    return groups if ids is None or (groups and len(digests) >= OFTEN * len(groups)) else None


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


def told(groups: Sequence[Sequence[int]] | None) -> str:
    """What was merged, for people; "" when nothing was."""
    if not groups:
        return ""
    rows = groups.rows if isinstance(groups, Groups) else sum(map(len, groups))
    return f"{rows} rows of {len(groups)} images are one sample each" if rows > len(groups) else ""

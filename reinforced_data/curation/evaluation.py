"""The images of an evaluation set, as far as decontamination needs them: bytes, perceptual hashes, embeddings."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import UsageError, nearest
from reinforced_data.curation.filter import Rows
from reinforced_data.curation.image_hash import hashes_of
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.source import ColumnNames, Split, open_source
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE, SET_FOLDER
from reinforced_data.store.reader import ReinforcedData


@dataclass
class Evaluation:
    """An evaluation set of m images.

    Attributes:
        name: as the user wrote it.
        keys: m sample keys.
        by_sha256: SHA-256 of the encoded bytes (hex) -> place in `keys`.
        hashed, hashes: places that have a perceptual hash [h] int64, and the hashes [h] uint64; empty if not asked for.
        data: the reinforced set, when it is one.
        unreadable: samples of the source that could not be fetched.
    """

    name: str
    keys: list[str]
    by_sha256: dict[str, int]
    hashed: Array
    hashes: Array
    data: ReinforcedData | None
    unreadable: int


def as_reinforced(location: str) -> Path | None:
    """The finished reinforced set that `location` means (its folder, or a run that holds one), or None."""
    for folder in (Path(location), Path(location) / SET_FOLDER):
        if (folder / MANIFEST_FILE).is_file() and (folder / PLAN_FILE).is_file():
            return folder
    return None


def read_evaluation(location: str, split: Split, with_hashes: bool, image_column: str | None = None) -> Evaluation:
    """Read the images at `location`, a reinforced set or any source (its `split`, and its zero-shot images).

    `image_column`: that of the training data, where the user had to name it; the images are in it here too if it is there.

    Raises what `open_source` and `ReinforcedData` raise, and UsageError when there is no image.
    """
    folder, columns = as_reinforced(location), ColumnNames(image_column, lenient=True)
    reader = _Reader(ReinforcedData(folder)) if folder else _Reader(open_source(location, split, columns=columns))
    hashes: list[int | None] = []
    if with_hashes:
        hashes = list(hashes_of(iter(reader)))
    else:
        for _ in reader:
            pass
    if not reader.keys:
        raise UsageError(f"The evaluation set {location!r} has no image that can be read.")
    known = [(place, value) for place, value in enumerate(hashes) if value is not None]
    return Evaluation(
        name=location,
        keys=reader.keys,
        by_sha256=reader.by_sha256,
        hashed=np.asarray([place for place, _ in known], np.int64),
        hashes=np.asarray([value for _, value in known], np.uint64),
        data=reader.held if isinstance(reader.held, ReinforcedData) else None,
        unreadable=reader.unreadable,
    )


class _Reader:
    """Goes over the images once, (key, bytes) at a time, and notes keys and hashes of the bytes on the way."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.keys: list[str] = []
        self.by_sha256: dict[str, int] = {}
        self.unreadable = 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for key, data in self._images():
            self.by_sha256.setdefault(hashlib.sha256(data).hexdigest(), len(self.keys))
            self.keys.append(key)
            yield key, data

    def _images(self) -> Iterator[tuple[str, bytes]]:
        if isinstance(self.held, ReinforcedData):
            for index in range(len(self.held)):
                yield self.held.text(index).key, self.held.image(index)
            return
        for index in range(len(self.held)):
            try:
                raw = self.held[index]
            except BadImageError:
                self.unreadable += 1
                continue
            yield raw.key, raw.image
        task = self.held.zero_shot()
        for place, image in enumerate(task.images if task else ()):
            yield f"{task.name}-{place}", image


def shared_teacher(rows: Rows, other: ReinforcedData | None, wanted: str | None) -> str | None:
    """The teacher by which rows and the evaluation set can be compared: the same name and weights in both; or None.

    Raises UsageError when `wanted` is named and is not in both with the same weights.
    """
    if wanted is not None:
        rows.teacher(wanted)
        if other is None:
            raise UsageError(
                f"teacher {wanted!r} is asked for, but the evaluation set is not reinforced, so it has no embeddings. "
                "Reinforce it with that teacher, or leave the teacher away to compare bytes and hashes."
            )
        if wanted not in other.teacher_facts:
            raise UsageError(
                f"{str(other.folder)!r} has no embeddings of teacher {wanted!r}. {nearest(wanted, other.teacher_facts)}"
            )
    if other is None:
        return None
    ours, theirs = _weights(rows.data), _weights(other)
    for name in [wanted] if wanted else list(ours):
        if name in theirs and ours[name] == theirs[name]:
            return name
    if wanted is not None:
        raise UsageError(
            f"Teacher {wanted!r} had other weights when {str(other.folder)!r} was made, so the embeddings cannot be "
            "compared. Reinforce one of the sets again."
        )
    return None


def _weights(data: ReinforcedData) -> dict[str, Any]:
    return {facts["name"]: facts["weights_sha256"] for facts in data.manifest.teachers}

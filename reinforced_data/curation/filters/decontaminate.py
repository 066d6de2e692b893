"""Remove training samples that are images of an evaluation set, or near copies of them."""

import tempfile
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from distill.core.arrays import Array
from distill.core.errors import UsageError
from reinforced_data.curation.evaluation import Evaluation, read_evaluation, shared_teacher
from reinforced_data.curation.filter import FILTERS, Filter, Outcome, Rows
from reinforced_data.curation.filters.duplicates import image_hashes
from reinforced_data.curation.image_hash import BITS, near_hashes
from reinforced_data.curation.neighbours import TOLERANCE, nearest_of

SHOWN = 20  # pairs listed in the facts
Matched = dict[int, tuple[int, float]]  # row -> (place in the evaluation set, score)


@FILTERS.register("decontaminate")
class Decontaminate(Filter):
    """Decontamination against a named evaluation set: a reinforced set, or any data source.

    Three comparisons: the same bytes (SHA-256); perceptual hashes that differ in at most `bits` of 64; and, when
    `against` is a reinforced set that has a teacher with the same weights, mean stored embeddings with a cosine of at
    least `min`. `by=all` (default) makes every one that can be made. Of a source the `split` is read, and the images of
    its zero-shot task; the image column that the training data were made with holds here too, where it is there.
    Several sets take several filters. Hashes read and decode every image; mirrored and cropped copies are found by
    embeddings alone. 20 bytes a sample (20 MB per million), 200 bytes an evaluation image, and a temporary file of 4 D
    bytes an evaluation image.
    """

    places: ClassVar[tuple[str, ...]] = ("against",)

    against: str = Field(..., description="folder of a reinforced set, or data as --data takes it")
    by: Literal["all", "bytes", "hash", "embedding"] = "all"
    min: float = Field(0.95, gt=0, le=1, description="cosine from which two images are one, to 1e-6")
    bits: int = Field(4, ge=0, le=16, description="differing bits up to which two hashes are of one image")
    teacher: str | None = Field(None, description="None = the first that both sets have")
    split: Literal["train", "eval"] = Field("eval", description="of a source")

    def select(self, rows: Rows, seed: int) -> Outcome:
        """Drop images of the evaluation set.

        Raises UsageError when `against` cannot be compared in the way asked for, or is the set itself.
        """
        named = rows.data.manifest.source.columns.get("image")
        evaluation = read_evaluation(self.against, self.split, self.by in ("all", "hash"), named)
        if evaluation.data is not None and evaluation.data.folder.resolve() == rows.data.folder.resolve():
            raise UsageError(f"filter 'decontaminate': {self.against!r} is the training set itself.")
        teacher = None
        if self.by in ("all", "embedding"):
            teacher = shared_teacher(rows, evaluation.data, self.teacher)
            if teacher is None and self.by == "embedding":
                raise UsageError(
                    f"filter 'decontaminate': {self.against!r} has no embeddings by a teacher of this set. Reinforce "
                    "it with one of them, or say by=hash."
                )
        found: dict[str, Matched] = {f"same bytes as an image of {self.against}": _by_bytes(rows, evaluation)}
        scores, name = None, ""
        if self.by in ("all", "hash"):
            reason = f"perceptual hash within {self.bits} bits of {self.against}"
            found[reason] = _by_hash(rows, evaluation, self.bits)
            if teacher is None:
                scores, name = (
                    np.full(len(rows), np.nan),
                    f"equal bits of {BITS} with the nearest evaluation image found",
                )
                for row, (_, value) in found[reason].items():
                    scores[row] = value
        if teacher is not None:
            places, scores = _nearest(rows, evaluation, teacher)
            name = f"highest cosine to an evaluation image by {teacher}"
            near = np.flatnonzero(scores >= self.min - TOLERANCE)
            found[f"cosine {self.min:g} or more to {self.against}"] = {
                int(row): (int(places[row]), float(scores[row])) for row in near
            }
        return Outcome(
            {reason: _mask(matched, len(rows)) for reason, matched in found.items()},
            scores,
            name,
            facts={
                "evaluation_images": len(evaluation.keys),
                "unreadable": evaluation.unreadable,
                "teacher": teacher,
                "matches": {reason: len(matched) for reason, matched in found.items()},
                "examples": _examples(rows, evaluation, found),
            },
        )


def _by_bytes(rows: Rows, evaluation: Evaluation) -> Matched:
    found: Matched = {}
    for part in rows.blocks():
        for row, index in enumerate(rows.indices[part], part.start):
            place = evaluation.by_sha256.get(rows.data.text(int(index)).image_sha256)
            if place is not None:
                found[row] = (place, float(BITS))
    return found


def _by_hash(rows: Rows, evaluation: Evaluation, bits: int) -> Matched:
    owners, hashes = image_hashes(rows)
    found: Matched = {}
    for i, j, distance in near_hashes(hashes, evaluation.hashes, bits):
        for row, place, apart in zip(owners[i].tolist(), evaluation.hashed[j].tolist(), distance.tolist(), strict=True):
            if row not in found or found[row][1] < BITS - apart:
                found[row] = (place, float(BITS - apart))
    return found


def _nearest(rows: Rows, evaluation: Evaluation, teacher: str) -> tuple[Array, Array]:
    """Per row the nearest evaluation image and its cosine: [n] int64, [n] float64."""
    assert evaluation.data is not None
    theirs = Rows(evaluation.data, np.arange(len(evaluation.data)), evaluation.keys)
    places, cosines = np.empty(len(rows), np.int64), np.empty(len(rows), np.float64)
    with tempfile.TemporaryDirectory(prefix="distill-") as folder:
        vectors = theirs.image_matrix(teacher, Path(folder))
        for part in rows.blocks():
            places[part], cosines[part] = nearest_of(rows.images(teacher, part), vectors)
        del vectors
    return places, cosines


def _mask(matched: Matched, rows: int) -> Array:
    mask = np.zeros(rows, bool)
    mask[list(matched)] = True
    return mask


def _examples(rows: Rows, evaluation: Evaluation, found: dict[str, Matched]) -> list[dict[str, str]]:
    seen: dict[int, dict[str, str]] = {}
    for reason, matched in found.items():
        for row, (place, _) in matched.items():
            if len(seen) < SHOWN and row not in seen:
                seen[row] = {"dropped": rows.keys[row], "evaluation": evaluation.keys[place], "why": reason}
    return list(seen.values())

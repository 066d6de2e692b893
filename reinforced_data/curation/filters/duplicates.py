"""Remove copies: the same bytes, nearly the same embedding (SemDeDup), or nearly the same perceptual hash."""

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from distill.core.arrays import Array
from reinforced_data.curation.filter import FILTERS, Filter, Outcome, Rows
from reinforced_data.curation.image_hash import hashes_of, near_hashes
from reinforced_data.curation.neighbours import Groups, near_pairs

SHOWN = 20  # pairs listed in the facts


@FILTERS.register("duplicates")
class Duplicates(Filter):
    """Near-duplicate removal; of each group of copies the sample with the lowest key stays.

    Copies of the same bytes always go. Besides, `by=embedding` (default) joins samples whose mean stored embeddings
    have a cosine of at least `min` (SemDeDup, arXiv:2303.09540; every pair up to 100,000 samples, inside clusters
    beyond), and `by=hash` those whose perceptual hashes differ in at most `bits` of 64 (reads and decodes every image).
    Stored embeddings are of random crops, so two copies of one image do not reach 1: take `min` from the histogram of a
    dry run. Groups are connected: a chain of neighbours counts as one. About 40 bytes a sample (40 MB per million), and
    for embeddings a temporary file of 4 D bytes a sample.
    """

    by: Literal["embedding", "hash", "bytes"] = "embedding"
    min: float = Field(0.95, gt=0, le=1, description="cosine from which two samples are copies, to 1e-6")
    bits: int = Field(4, ge=0, le=16, description="differing bits up to which two hashes are of one image")
    teacher: str | None = Field(None, description="None = the set's first")

    def select(self, rows: Rows, seed: int) -> Outcome:
        """Drop every copy but the one with the lowest key."""
        groups = Groups(len(rows))
        exact = _same_bytes(rows)
        groups.join(np.arange(len(rows)), exact)
        scores, name, reason = None, "", ""
        if self.by == "embedding":
            teacher = rows.teacher(self.teacher)
            scores = self._by_embedding(rows, teacher, groups, seed)
            name = f"highest cosine to another image by {teacher}"
            reason = f"near-duplicate (cosine {self.min:g} or more)"
        elif self.by == "hash":
            _by_hash(rows, self.bits, groups)
            reason = f"near-duplicate (perceptual hash within {self.bits} bits)"
        kept = groups.keepers(rows.keys)
        copies = kept != np.arange(len(rows))
        dropped = {"same image bytes as a kept sample": copies & (exact == exact[kept])}
        if reason:
            dropped[reason] = copies
        sizes = np.bincount(np.unique(kept, return_inverse=True)[1])
        facts = {
            "groups": int((sizes > 1).sum()),
            "largest_group": int(sizes.max()),
            "examples": [
                {"dropped": rows.keys[int(row)], "kept": rows.keys[int(kept[row])]}
                for row in np.flatnonzero(copies)[:SHOWN]
            ],
        }
        return Outcome(dropped, scores, name, facts=facts)

    def _by_embedding(self, rows: Rows, teacher: str, groups: Groups, seed: int) -> Array:
        best = np.full(len(rows), -np.inf)
        with tempfile.TemporaryDirectory(prefix="distill-") as folder:
            vectors = rows.image_matrix(teacher, Path(folder))
            for left, right, compared, cosine in near_pairs(vectors, self.min, seed):
                groups.join(left, right)
                best[compared] = np.maximum(best[compared], cosine)
            del vectors
        return np.where(np.isfinite(best), best, np.nan)


def _same_bytes(rows: Rows) -> Array:
    """For each row the first row whose image has the same SHA-256, [n] int64. 128 of its 256 bits are compared."""
    digests = np.empty(len(rows), "S16")
    for part in rows.blocks():
        digests[part] = [bytes.fromhex(rows.data.text(int(i)).image_sha256)[:16] for i in rows.indices[part]]
    _, first, place = np.unique(digests, return_index=True, return_inverse=True)
    same: Array = first[place]
    return same


def image_hashes(rows: Rows) -> tuple[Array, Array]:
    """(rows that have a perceptual hash [h] int64, their hashes [h] uint64)."""
    images = ((rows.keys[row], rows.data.image(int(index))) for row, index in enumerate(rows.indices))
    known = [(row, value) for row, value in enumerate(hashes_of(images)) if value is not None]
    return np.asarray([row for row, _ in known], np.int64), np.asarray([value for _, value in known], np.uint64)


def _by_hash(rows: Rows, bits: int, groups: Groups) -> None:
    owners, hashes = image_hashes(rows)
    values, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    groups.join(owners, owners[first[place]])  # equal hashes once, so that a common one is not paired with itself
    for i, j, _ in near_hashes(values, values, bits):
        groups.join(owners[first[i]], owners[first[j]])

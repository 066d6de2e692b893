"""Balance concepts: what many captions mention is thinned out, what few mention is kept whole (MetaCLIP)."""

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from distill.core.arrays import Array
from reinforced_data.curation.concepts import EVERYDAY, Concepts, Matches, read_concepts
from reinforced_data.curation.filter import FILTERS, Filter, Outcome, Rows

SHOWN = 20  # entries listed in the facts


@FILTERS.register("balance")
class Balance(Filter):
    """Concept balancing with a cap per entry of a metadata list (MetaCLIP, arXiv:2309.16671, algorithm 1).

    An entry that `count` samples mention keeps each of them with probability min(1, cap / count); a sample is kept when
    any of its entries keeps it, so with probability 1 - prod(1 - p_e). Samples that mention no entry are dropped, as
    there. An entry counts once per sample, whatever the number of captions. The draw is a hash of the seed and the key:
    it does not depend on the order, and a higher cap keeps all that a lower one keeps. MetaCLIP took cap = 20,000 for
    400 million pairs and 500,000 entries. About 30 bytes a sample (30 MB per million) and 300 bytes an entry.
    """

    places: ClassVar[tuple[str, ...]] = ("concepts",)

    cap: int = Field(..., ge=1, description="samples per entry, the t of the paper")
    concepts: str | None = Field(None, description="file of entries, one a line or a JSON list; None = everyday words")
    captions: Literal["all", "real", "synthetic"] = Field("all", description="the captions that are read")
    unmatched: Literal["drop", "keep"] = Field("drop", description="what becomes of samples that mention no entry")

    def select(self, rows: Rows, seed: int) -> Outcome:
        """Drop samples until each entry is mentioned by about `cap` of them."""
        concepts = Concepts(read_concepts(Path(self.concepts) if self.concepts else EVERYDAY))
        matches = self._matches(rows, concepts)
        counts = matches.counts(len(concepts.entries))
        missed = 1 - np.minimum(1, self.cap / np.maximum(counts, 1))  # [entries], probability of not keeping
        chance = np.empty(len(rows), np.float64)
        mute = np.zeros(len(rows), bool)
        for row in range(len(rows)):
            places = matches.of(row)
            mute[row] = not len(places)
            chance[row] = 1 - np.prod(missed[places])
        if self.unmatched == "keep":
            chance[mute] = 1.0
            mute[:] = False
        drawn = np.asarray([draw(seed, key) for key in rows.keys])
        dropped = {"mentions no entry of the list": mute, "not drawn from its concepts": drawn >= chance}
        keep = ~(dropped["mentions no entry of the list"] | dropped["not drawn from its concepts"])
        return Outcome(
            dropped, chance, "probability of being kept", facts=_facts(concepts, matches, counts, keep, self.cap)
        )

    def _matches(self, rows: Rows, concepts: Concepts) -> Matches:
        matches = Matches()
        for part in rows.blocks():
            for index in rows.indices[part]:
                captions = rows.data.text(int(index)).captions
                texts = [
                    c.text
                    for c in captions
                    if self.captions == "all" or (c.source == "real") == (self.captions == "real")
                ]
                matches.add(set().union(*(concepts.match(text) for text in texts)))
        return matches


def draw(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on the seed and the key alone."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def _facts(concepts: Concepts, matches: Matches, counts: Array, keep: Array, cap: int) -> dict[str, Any]:
    after = np.zeros_like(counts)
    for row in np.flatnonzero(keep):
        after[matches.of(int(row))] += 1
    common = np.argsort(-counts, kind="stable")[:SHOWN]
    return {
        "entries": len(counts),
        "entries_mentioned": int((counts > 0).sum()),
        "entries_over_cap": int((counts > cap).sum()),
        "most_common": [
            {"entry": concepts.entries[e], "before": int(counts[e]), "after": int(after[e])}
            for e in common
            if counts[e]
        ],
    }

"""What a filter is: settings, and a choice among the rows of a finished set, with a reason for each row left out.

Filters read what is stored (embeddings per teacher, captions, keys, image bytes) and never run a model. They stream
over the rows in blocks, so that memory does not grow with the set beyond a few numbers per sample (each filter's
docstring says how many). Which filters there are is in `filters/`; running them in order is the business of `curate`.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import UsageError, nearest
from distill.core.registry import Registry
from distill.core.strict import Strict, parse
from reinforced_data.source import absolute_place
from reinforced_data.store.reader import ReinforcedData

BLOCK_ROWS = 4096
_OPTION = re.compile(r'\s*([^=,"\s]+)\s*=\s*("[^"]*"|[^,"]*)\s*(?:,|$)')


@dataclass
class Outcome:
    """What a filter decided about n rows.

    Attributes:
        dropped: reason -> [n] bool, true where the row is left out for it; the first reason that holds is the row's.
        scores: [n] float64, NaN where a row has none; None when the filter has no score.
        score_name: what the score is, for the histogram.
        repeats: [n] int64, how often a kept row is used in an epoch; None = once.
        facts: what else a person wants to know, as plain JSON.
    """

    dropped: dict[str, Array]
    scores: Array | None = None
    score_name: str = ""
    repeats: Array | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Rows:
    """The rows of a set that the filters before have kept, read block by block.

    About 100 bytes a row (its key); 100 MB per million rows.

    Attributes:
        data: the set.
        indices: [n] int64, their places in the set, rising.
        keys: their keys.
        scores: the scores of the filters before, one [n] array (or None) each, in the order of the chain.
    """

    def __init__(
        self, data: ReinforcedData, indices: Array, keys: list[str], scores: tuple[Array | None, ...] = ()
    ) -> None:
        self.data = data
        self.indices = indices
        self.keys = keys
        self.scores = scores

    def __len__(self) -> int:
        return len(self.indices)

    def blocks(self) -> Iterator[slice]:
        """The rows in consecutive parts of at most BLOCK_ROWS."""
        for start in range(0, len(self), BLOCK_ROWS):
            yield slice(start, min(start + BLOCK_ROWS, len(self)))

    def where(self, keep: Array, scores: Array | None) -> "Rows":
        """The rows for which `keep` ([n] bool) holds, with one more column of scores."""
        columns = tuple(None if column is None else column[keep] for column in (*self.scores, scores))
        keys = [key for key, kept in zip(self.keys, keep.tolist(), strict=True) if kept]
        return Rows(self.data, self.indices[keep], keys, columns)

    def teacher(self, name: str | None) -> str:
        """`name`, or the set's first teacher when None. Raises UsageError when the set has no such teacher."""
        if name is None:
            return str(next(iter(self.data.teacher_facts)))
        if name not in self.data.teacher_facts:
            raise UsageError(
                f"{str(self.data.folder)!r} has no embeddings of teacher {name!r}. {nearest(name, self.data.teacher_facts)}"
            )
        return name

    def images(self, teacher: str, part: slice) -> Array:
        """One unit-length embedding per row, the mean over its stored views: [b, D] float32."""
        return np.stack([mean_view(self.data, int(i), teacher) for i in self.indices[part]]).astype(np.float32)

    def image_matrix(self, teacher: str, folder: Path) -> Array:
        """`images` of all rows, [n, D] float32, in a file in `folder`: 3 GB of disk per million rows at D = 768."""
        width = self.data.teacher_facts[teacher].width
        file = tempfile.NamedTemporaryFile(dir=folder, suffix=".f32", delete=False)  # noqa: SIM115 - outlives this call
        file.close()
        matrix = np.memmap(file.name, np.float32, "w+", shape=(len(self), width))
        for part in self.blocks():
            matrix[part] = self.images(teacher, part)
        return matrix


def mean_view(data: ReinforcedData, index: int, teacher: str) -> Array:
    """The unit-length mean of a sample's unit-length view embeddings, [D] float64. Zero vectors stay zero."""
    return unit(unit(data.image_embeds(index, teacher)).mean(0))


def unit(vectors: Array) -> Array:
    """Rows of `vectors` [..., D] at unit length, float64; zero rows stay zero."""
    vectors = vectors.astype(np.float64)
    norm = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    scaled: Array = vectors / np.where(norm == 0, 1, norm)
    return scaled


class Filter(Strict):
    """A filter's settings, and what it does with rows. Subclasses are registered in FILTERS by name.

    Attributes:
        places: the settings that name places of data.
    """

    places: ClassVar[tuple[str, ...]] = ()

    def select(self, rows: Rows, seed: int) -> Outcome:
        """Decide about every row. A function of the rows, the settings and the seed alone; `rows` is never empty."""
        raise NotImplementedError


FILTERS: Registry[type[Filter]] = Registry("filter", ("reinforced_data.curation.filters",))


def parse_filter(text: str) -> tuple[str, Filter]:
    """(name, filter) from `name` or `name:key=value,key=value`; a value with a comma is put in double quotes.

    Raises UsageError for an unknown filter or key (with the near one), a missing key, or a value of the wrong kind.
    """
    name, _, rest = text.strip().partition(":")
    model = FILTERS.get(name)
    values: dict[str, Any] = {}
    place = 0
    while place < len(rest):
        found = _OPTION.match(rest, place)
        if found is None:
            raise UsageError(
                f"filter {text!r}: cannot read {rest[place:]!r}. Write name:key=value,key=value; put a value that has "
                'a comma in double quotes, for example against="rendered:train=100,eval=20".'
            )
        key, value = found.group(1), found.group(2).strip().strip('"')
        if key in values:
            raise UsageError(f"filter {text!r}: the key {key!r} is given twice.")
        values[key] = value
        place = found.end()
    return name, parse(model, values, f"filter {text!r}")


def absolute_filter(text: str) -> str:
    """The same filter with its places absolute (`Filter.places`). Raises what `parse_filter` raises."""
    _, made = parse_filter(text)
    for key in made.places:
        value = getattr(made, key)
        if not value or (place := absolute_place(value)) == value:
            continue
        quoted = f'"{place}"' if "," in place else place
        found = re.search(rf'[:,]\s*{key}\s*=\s*("[^"]*"|[^,"]*)', text)
        assert found is not None  # parse_filter has read it
        text = text[: found.start(1)] + quoted + text[found.end(1) :]
    return text


def fraction_of(fraction: Any, count: int) -> int:
    """The whole number of rows in `fraction` (a Decimal) of `count`, rounded down, exact: 0.15 of 20 is 3."""
    return int(fraction * count)


def by_rank(scores: Array, keys: list[str]) -> Array:
    """Places of all rows, best score first; equal scores in the order of their keys, NaN last."""
    order = np.argsort(np.asarray(keys, dtype=object), kind="stable")
    ranked: Array = order[np.argsort(-scores[order], kind="stable")]
    return ranked

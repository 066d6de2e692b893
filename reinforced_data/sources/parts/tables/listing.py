"""A listing of tables: per row its path or key and its captions, per sample its rows, label and part; images are not touched."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from reinforced_data.sources.parts.columns import Columns, Labels
from reinforced_data.sources.parts.kept.compact import Coded, Column, Names
from reinforced_data.sources.parts.kept.shelf import Sheet, SheetWriter
from reinforced_data.sources.parts.same import Digests, Grouped
from reinforced_data.sources.parts.tables.rows import Row


class TableWriter:
    """Takes rows one after the other into a listing, in memory or, where a folder is given, in its files.

    Columns: image (paths), key, texts, one row each; label and part a sample each; starts and rows where images come again.

    Args:
        by_path: whether images are paths, by which their rows are then grouped.
        texts: whether captions are kept; not where they can be mapped where they lie.
    """

    def __init__(self, columns: Columns, *, by_path: bool, folder: Path | None, texts: bool = True) -> None:
        self.columns = columns
        self._sheet = SheetWriter(folder)
        self._images = self._sheet.names("image") if by_path else None
        self._keys = self._sheet.names("key") if columns.key else None
        self._no_key = Column("i8")
        self._texts = self._sheet.names("texts") if texts and columns.texts else None
        self._labels, self._parts = _Coder(), _Coder()
        self._paths = Digests()
        self._same_paths = False
        self.rows = 0

    def add(self, row: Row) -> None:
        """Take one row."""
        if self._images is not None:
            cell = packed(row.image)
            self._images.append(cell)
            self._same_paths |= self.rows == 0 and isinstance(row.image, str)
            if self._same_paths:
                self._paths.append_text(cell if row.image else None)
        if self._keys is not None:
            self._keys.append(str(row.key))
            if row.key is None:
                self._no_key.append(self.rows)
        if self._texts is not None:
            self._texts.append(packed(row.texts))
        self._labels.append(row.label if isinstance(row.label, str | int) else None)
        self._parts.append(row.part)
        self.rows += 1

    def paths(self) -> Iterator[str]:
        """The paths of the rows so far, once they are all there."""
        assert self._images is not None
        return (str(json.loads(cell)) for cell in self._images.done())

    def array(self, name: str, numbers: Array) -> None:
        """A column of int64 besides."""
        self._sheet.array(name, numbers)

    def done(
        self,
        same_bytes: Callable[[Callable[[], Iterable[str | None]] | None], Grouped | None],
        names_of_labels: Sequence[str] | None,
        facts: Callable[[Sequence[str], Grouped | None], dict[str, Any]],
    ) -> Sheet:
        """The listing.

        Args:
            same_bytes: groups rows whose images are not paths; it is given the ids of rows, where they have any.
            names_of_labels: where numbers stand for them.
            facts: what else is to be kept, given the names of classes and the groups.
        """
        groups = self._paths.grouped() if self._same_paths else None
        if self._images is None and self.columns.texts:
            groups = same_bytes(self._ids if self._keys is not None else None)
        if groups is not None:
            self._sheet.array("starts", groups.starts)
            self._sheet.array("rows", groups.order)
        firsts: Array | slice = groups.firsts if groups is not None else slice(None)
        class_names: tuple[str, ...] = ()
        if self.columns.label is not None:
            seen = self._labels.done()
            labels = Labels(seen.values, names_of_labels)
            class_names = labels.names
            index = np.array(
                [-1 if (found := labels[row]) is None else found for row in range(len(seen.values))], np.int32
            )
            if len(seen):
                self._sheet.numbers("label", "i4").extend(index[seen.codes][firsts].tobytes())
        parts = self._parts.done()
        if any(parts.values) or self.columns.split:
            self._sheet.coded("part", Coded(parts.values, parts.codes[firsts]))
        told = {"columns": asdict(self.columns), "class_names": [*class_names], "count": self.rows}
        return self._sheet.done({**told, **facts(class_names, groups)})

    def _ids(self) -> Iterator[str | None]:
        assert self._keys is not None
        without = iter([*self._no_key.done().tolist(), -1])
        none = next(without)
        for row, key in enumerate(self._keys.done()):
            if row == none:
                none = next(without)
                yield None
            else:
                yield key


class _Coder:
    """A `Coded` column that grows."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._codes = Column("i4")

    def append(self, value: Any) -> None:
        self._codes.append(self._numbers.setdefault(value, len(self._numbers)))

    def done(self) -> Coded:
        return Coded([*self._numbers], self._codes.done())


class RowKeys(Sequence[str]):
    """The key of each sample: the cell of a key column, else the image's path, else `stem` and the row's number."""

    def __init__(self, sheet: Sheet, groups: Grouped | None, stem: str) -> None:
        self._cells: Names | None = sheet.names.get("key")
        self._paths: Names | None = sheet.names.get("image")
        self._groups, self._stem, self._count = groups, stem, int(sheet.facts["count"])

    def __len__(self) -> int:
        return len(self._groups) if self._groups is not None else self._count

    def __getitem__(self, sample: Any) -> Any:
        if isinstance(sample, slice):
            return [self[one] for one in range(len(self))[sample]]
        sample = range(len(self))[sample]
        row = self._groups.first(sample) if self._groups is not None else sample
        if self._cells is not None:
            return self._cells[row]
        if self._paths is None:
            return f"{self._stem}-{row:08d}"
        value = json.loads(self._paths[row])
        value = value.get("path") if isinstance(value, dict) else value
        return (value if isinstance(value, str) else "") or f"row-{row:08d}"


def packed(value: Any) -> str:
    """Cells as JSON; what has no form in JSON is no caption either, and becomes null."""
    return json.dumps(value, ensure_ascii=False, default=lambda _: None)

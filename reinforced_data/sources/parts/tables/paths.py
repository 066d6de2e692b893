"""Which image file a cell of a text table means, and which part of a set the lists beside it say."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reinforced_data.sources.parts.files import Found
from reinforced_data.sources.parts.kept.compact import Column
from reinforced_data.sources.parts.text import decoded

_PART_LIST = re.compile(r"(?:.*[._/])?(train|dev|val|test)[._]?images\.txt")
_REMEMBERED = 1 << 16  # cells of a base


def part_lists(found: Found) -> dict[str, str]:
    """The lists of a part's images that Flickr8k has ("Flickr_8k.trainImages.txt") -> the part."""
    matches = ((name, _PART_LIST.fullmatch(name.lower())) for name in found.names)
    return {name: match[1] for name, match in matches if match}


def listed_parts(found: Found) -> dict[str, str]:
    """Name of an image -> its part, by such lists; a name a line."""
    parts: dict[str, str] = {}
    for name, part in part_lists(found).items():
        lines = decoded((found.folder / name).read_bytes())[0].splitlines()
        parts |= {line.strip(): part for line in lines if line.strip()}
    return parts


def relative_paths(paths: Iterable[str], root: Path) -> Iterator[str]:
    """Paths as the files below `root` are named: of absolute ones and those with "./" or "../" what is inside."""
    inside = f"{root.absolute().as_posix().rstrip('/')}/"
    return (os.path.normpath(path).removeprefix(inside) for path in paths)


class _Table:
    """Strings -> the rows that have them, by marks: 16 bytes a string."""

    def __init__(self) -> None:
        self._made = Column("i8"), Column("i8")

    def add(self, string: str, row: int) -> None:
        """Row `row` has this string."""
        self._made[0].append(hash(string))
        self._made[1].append(row)

    def done(self) -> "_Table":
        """The same, ready for questions."""
        order = np.argsort(self._made[0].done(), kind="stable")
        self._marks, self._rows = (column.done()[order] for column in self._made)
        return self

    def rows(self, string: str) -> list[int]:
        """Rows that may have it; whether they do, their names say."""
        mark = hash(string)
        start, end = np.searchsorted(self._marks, mark), np.searchsorted(self._marks, mark, "right")
        return self._rows[start:end].tolist() if end > start else []


class Paths:
    """Finds the files that a table's cells mean: beside the table, below the root, or by a name that only one file has.

    Args:
        files: relative paths of the images below `root`.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self._root, self._inside = root, f"{root.absolute().as_posix().rstrip('/')}/"
        self._here = Path.cwd().as_posix().rstrip("/")
        self._found: dict[Path, dict[str, int | None]] = {}  # a row is a caption, so a path comes again and again
        self._files = files
        self._by_path, self._by_name = _Table(), _Table()
        for row, file in enumerate(files):
            name = file.rpartition("/")[2]
            self._by_path.add(file, row)
            for known in (name, name.rpartition(".")[0]):
                self._by_name.add(known, row)
        self._by_path.done(), self._by_name.done()

    def find(self, cell: Any, base: Path) -> str | None:
        """The file's path relative to the root; None when there is none, or several of that name."""
        row = self.find_row(cell, base)
        return None if row is None else self._files[row]

    def find_row(self, cell: Any, base: Path) -> int | None:
        """Which of the files it is; see `find`."""
        if not isinstance(cell, str | int) or isinstance(cell, bool) or cell == "":
            return None
        text = str(cell).strip().replace("\\", "/").removeprefix("./")
        known = self._found.setdefault(base, {})
        if text not in known:
            if len(known) > _REMEMBERED:
                known.clear()
            known[text] = self._look(text, base)
        return known[text]

    def _look(self, text: str, base: Path) -> int | None:
        below = base.relative_to(self._root).as_posix() if base != self._root else ""
        for path in (f"{below}/{text}" if below else text, text, text.removeprefix(f"{self._root.name}/")):
            if (row := self._at(path)) is not None:
                return row
        absolute = Path(text).expanduser().as_posix() if text.startswith(("/", "~")) else f"{self._here}/{text}"
        row = self._at(absolute.removeprefix(self._inside))
        return self._called(text.rpartition("/")[2]) if row is None else row

    def _at(self, path: str) -> int | None:
        return next((row for row in self._by_path.rows(path) if self._files[row] == path), None)

    def _called(self, name: str) -> int | None:
        rows: list[int] = []
        for row in self._by_name.rows(name):
            own = self._files[row].rpartition("/")[2]
            rows += [row] * [own, own.rpartition(".")[0]].count(name)
            if len(rows) > 1:
                return None
        return rows[0] if rows else None

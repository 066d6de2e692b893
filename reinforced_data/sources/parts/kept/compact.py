"""What a listing of very many rows is made of: numbers and names as flat arrays, in memory or mapped from a file, and rows by rule.

A Python object a row costs some 76 bytes in every process. An array costs its bytes, and a mapped one costs none: processes of a
machine share the pages that they touch, and a pickle of it holds the file's name.
"""

import bisect
import mmap
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array

_FLUSHED_BYTES = 1 << 20
_CODES = {"u1": "B", "i4": "i", "i8": "q"}  # of the types of columns, for `array`


class Mapped(np.memmap):
    """A file of numbers, mapped for reading. Its pickle is the file's name; that of a part of it is the part's numbers."""

    def __reduce__(self) -> Any:
        """See the class."""
        if isinstance(self.base, mmap.mmap):
            return mapped, (Path(str(self.filename)), self.dtype.str)
        return np.asarray(self).__reduce__()


def mapped(file: Path, kind: str) -> Array:
    """The numbers of a file, which is left where it is; `kind` is numpy's word for their type."""
    if file.stat().st_size == 0:
        return np.zeros(0, kind)
    return Mapped(file, dtype=kind, mode="r")


class Column:
    """Numbers that come one after the other.

    Args:
        kind: numpy's word for their type: "u1", "i4" or "i8".
        file: where they go as they come; None = they stay in memory.
    """

    def __init__(self, kind: str, file: Path | None = None) -> None:
        self.kind, self._file = kind, file
        self._last = array(_CODES[kind])
        self._written = 0
        if file is not None:
            file.touch()

    def __len__(self) -> int:
        return self._written + len(self._last)

    def append(self, number: int) -> None:
        """Add one at the end."""
        self._last.append(number)
        self._flush(_FLUSHED_BYTES)

    def extend(self, data: bytes) -> None:
        """Add the bytes of many at the end."""
        self._last.frombytes(data)
        self._flush(_FLUSHED_BYTES)

    def done(self) -> Array:
        """All of them; nothing is added any more."""
        if self._file is None:
            return np.frombuffer(self._last, self.kind) if self._last else np.zeros(0, self.kind)
        self._flush(0)
        return mapped(self._file, self.kind)

    def _flush(self, most: int) -> None:
        if self._file is not None and len(self._last) * self._last.itemsize > most:
            with open(self._file, "ab") as stream:
                self._last.tofile(stream)
            self._written += len(self._last)
            del self._last[:]


def repeated(numbers: Array) -> Array:
    """Which of the numbers, [n], occur more than once: [n] bool."""
    ordered = np.sort(numbers)
    return np.isin(numbers, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))


class Names(Sequence[str]):
    """Many strings as one block of bytes, and where each ends.

    Args:
        data: the bytes of all, [n] uint8. ends: per string where it ends in them, int64.
    """

    def __init__(self, data: Array, ends: Array) -> None:
        self.data, self.ends = data, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Those of any iterable, in memory."""
        writer = NamesWriter()
        for name in names:
            writer.append(name)
        return writer.done()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[one] for one in range(len(self))[row]]
        row = range(len(self.ends))[row]
        start = int(self.ends[row - 1]) if row else 0
        return self.data[start : int(self.ends[row])].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self.ends), 1 << 16):
            ends = self.ends[first : first + (1 << 16)].tolist()
            data, offset = self.data[start : ends[-1]].tobytes(), start
            for end in ends:
                yield data[start - offset : end - offset].decode("utf-8", "surrogatepass")
                start = end


class NamesWriter:
    """Names that come one after the other; see `Column` for `folder`, in which they are `keys` and `ends`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._data, self._ends = _of_names(folder)
        self._at = 0

    def append(self, name: str) -> None:
        """Add one at the end."""
        data = name.encode("utf-8", "surrogatepass")
        self._data.extend(data)
        self._at += len(data)
        self._ends.append(self._at)

    def extend(self, names: Names) -> None:
        """Add many at the end."""
        self._data.extend(names.data.tobytes())
        self._ends.extend((names.ends + self._at).tobytes())
        self._at += len(names.data)

    def __len__(self) -> int:
        return len(self._ends)

    def done(self) -> Names:
        """All of them; nothing is added any more."""
        return Names(self._data.done(), self._ends.done())


def _of_names(folder: Path | None) -> tuple[Column, Column]:
    files = (folder / "keys", folder / "ends") if folder is not None else (None, None)
    return Column("u1", files[0]), Column("i8", files[1])


def names_in(folder: Path) -> Names:
    """What a `NamesWriter` has left in a folder."""
    return Names(mapped(folder / "keys", "u1"), mapped(folder / "ends", "i8"))


class Marks:
    """Which strings were among many, by a number of 8 bytes each; another string passes for one of them once in 2 ** 64 of them."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._sorted = np.unique(np.fromiter(map(hash, strings), np.int64))

    def __contains__(self, string: str) -> bool:
        place = int(np.searchsorted(self._sorted, mark := hash(string)))
        return place < len(self._sorted) and int(self._sorted[place]) == mark


class Picked(Sequence[str]):
    """The names of some rows, without a copy of them."""

    def __init__(self, names: Sequence[str], rows: Sequence[int] | Array) -> None:
        self._names, self._of = names, rows

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, place: Any) -> Any:
        return (
            [self[one] for one in range(len(self))[place]]
            if isinstance(place, slice)
            else self._names[int(self._of[place])]
        )


class Coded(Sequence[Any]):
    """Values that repeat: the different ones once, and per row the number of its own.

    Args:
        values: in order of their first row. codes: per row, [n].
    """

    def __init__(self, values: Sequence[Any], codes: Array) -> None:
        self.values, self.codes = list(values), codes

    @classmethod
    def of(cls, values: Iterable[Any]) -> "Coded":
        """Those of any iterable of hashable values."""
        numbers: dict[Any, int] = {}
        codes = Column("i4")
        for value in values:
            codes.append(numbers.setdefault(value, len(numbers)))
        return cls([*numbers], codes.done())

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: Any) -> Any:
        return [self[one] for one in range(len(self))[row]] if isinstance(row, slice) else self.values[self.codes[row]]


class Numbers(Sequence[int]):
    """An array as a sequence of Python's own numbers, which `if` may be asked of."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, place: Any) -> Any:
        return self.array[place].tolist() if isinstance(place, slice) else int(self.array[place])

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self.array), 1 << 16):
            yield from self.array[start : start + (1 << 16)].tolist()


class AllBut(Sequence[int]):
    """The rows 0 to count - 1 without a few, ascending. `without`: those, ascending."""

    def __init__(self, count: int, without: Sequence[int] | Array) -> None:
        self._count, self._without = count, np.asarray(without, np.int64)
        # Of the rows that are left out, how many of those that stay lie before each.
        self._before = self._without - np.arange(len(self._without))

    def __len__(self) -> int:
        return self._count - len(self._without)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        place = range(len(self))[place]
        return place + bisect.bisect_right(self._before, place)

    def __iter__(self) -> Iterator[int]:
        start = 0
        for row in map(int, self._without):
            yield from range(start, row)
            start = row + 1
        yield from range(start, self._count)

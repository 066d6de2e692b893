"""Listings of much data are kept in the cache folder: made once on a machine, mapped by every process. The rule, for every kind.

A listing is kept under the hash of its identity: all that it follows from, such as the names, sizes and times of the files that
it is of. So one that has changed is another, and no kept one is ever corrected. What nobody has used for two months goes.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from distill.core.arrays import Array
from distill.core.atomic import read_json, sha256_json, staged_dir, write_bytes
from distill.core.packages.environment import cache_folder
from reinforced_data.sources.parts.kept.compact import Coded, Column, Names, NamesWriter, mapped, names_in

FACTS = "index.json"  # of a kept listing; written last
FORGOTTEN_AFTER_S = 60 * 24 * 3600.0
KEPT_FROM_BYTES = 8 << 30  # of images; less is listed in seconds, and its listing is small
KEPT_FROM_ROWS = 100_000  # about as many images
_FORMAT = 1  # of kept listings; another number makes them anew
T = TypeVar("T")


def is_much(size_bytes: int = 0, rows: int = 0) -> bool:
    """Whether the listing of so many bytes of images, or of so many files or rows, is kept; a smaller one is in memory."""
    return size_bytes >= KEPT_FROM_BYTES or rows >= KEPT_FROM_ROWS


def shelved(identity: Sequence[Any], much: bool, make: Callable[[Path | None], T], read: Callable[[Path], T]) -> T:
    """A listing: kept and read where it is of much data, else made in memory, as it is where nothing can be kept.

    Args:
        identity: plain JSON of all that the listing follows from.
        make: makes it in an empty folder, with `FACTS` as the last file, or in memory for None.
        read: gives the one that lies in a folder.
    """
    if not much:
        return make(None)
    place = cache_folder() / "listings" / sha256_json([_FORMAT, *identity])[:32]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            if not (place / FACTS).is_file():
                _forget(place.parent)
                with staged_dir(place) as folder:
                    make(folder)
    except OSError:  # no cache folder, or none with room: as before there was one
        return make(None)
    with contextlib.suppress(OSError):  # of another user
        os.utime(place)
    return read(place)


def _alone(place: Path) -> Any:
    """While it lasts, no other process of this machine makes what is called `place`; those that come wait."""
    from filelock import FileLock

    return FileLock(place.with_name(f".{place.name}.lock"))


def _forget(folder: Path) -> None:
    """Remove the listings that nobody has used for two months."""
    for kept in folder.iterdir():
        if kept.is_dir() and time.time() - kept.stat().st_mtime > FORGOTTEN_AFTER_S:
            shutil.rmtree(kept, ignore_errors=True)
            kept.with_name(f".{kept.name}.lock").unlink(missing_ok=True)


def remember(folder: Path | None, name: str, find: Callable[[], Any]) -> Any:
    """What `find` finds out about a listing: plain JSON or an array of int64. It is kept in the listing's folder, if it has one."""
    found = None
    if folder is None:
        return find()
    try:
        with _alone(folder / name):  # of its own, since what is found may rest on what else is found
            plain, numbers = folder / f"{name}.json", folder / f"{name}.i8"
            if plain.is_file():
                return read_json(plain)
            if not numbers.is_file():
                found = find()
                if not isinstance(found, np.ndarray):
                    _write(plain, found)
                    return found
                partial = numbers.with_suffix(".partial")
                found.astype("<i8", copy=False).tofile(partial)
                os.replace(partial, numbers)
            return mapped(numbers, "i8")
    except OSError:  # nothing can be kept there now
        return find() if found is None else found


def _write(file: Path, value: Any) -> None:
    write_bytes(file, json.dumps(value).encode())  # in ASCII: names of files need not be valid Unicode


class Sheet:
    """Facts and flat columns of one listing, in memory or mapped; see `SheetWriter`.

    Attributes:
        facts: plain JSON.
        names, numbers: columns by their name.
        folder: where they are kept; None = in memory.
    """

    def __init__(
        self, facts: dict[str, Any], names: dict[str, Names], numbers: dict[str, Array], folder: Path | None
    ) -> None:
        self.facts, self.names, self.numbers, self.folder = facts, names, numbers, folder

    @classmethod
    def kept(cls, folder: Path) -> "Sheet":
        """The one that a writer has left in a folder."""
        written = read_json(folder / FACTS)
        names = {name: names_in(folder / name) for name in written["names"]}
        numbers = {name: mapped(folder / name, kind) for name, kind in written["numbers"].items()}
        return cls(written["facts"], names, numbers, folder)

    def coded(self, name: str) -> Coded | None:
        """The column of values that repeat of this name, None where the listing has none."""
        return Coded(self.facts[name], self.numbers[name]) if name in self.numbers else None

    def remember(self, name: str, find: Callable[[], Any]) -> Any:
        """See `remember`."""
        return remember(self.folder, name, find)


class SheetWriter:
    """Columns that are filled one row after the other, in memory or, where a folder is given, in its files."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._names: dict[str, NamesWriter] = {}
        self._numbers: dict[str, Column] = {}
        self._facts: dict[str, Any] = {}

    def names(self, name: str) -> NamesWriter:
        """A new column of strings."""
        if self._folder is not None:
            (self._folder / name).mkdir()
        self._names[name] = NamesWriter(self._folder and self._folder / name)
        return self._names[name]

    def numbers(self, name: str, kind: str) -> Column:
        """A new column of numbers; `kind` as of `Column`."""
        self._numbers[name] = Column(kind, self._folder and self._folder / name)
        return self._numbers[name]

    def array(self, name: str, numbers: Array) -> None:
        """A new column of int64 that is known already."""
        self.numbers(name, "i8").extend(numbers.astype("<i8", copy=False).tobytes())

    def coded(self, name: str, column: Coded) -> None:
        """A new column of values that repeat; they are facts, and the numbers of the rows are the column."""
        self._facts[name] = column.values
        self.numbers(name, "i4").extend(column.codes.astype("<i4", copy=False).tobytes())

    def done(self, facts: dict[str, Any]) -> Sheet:
        """The whole; nothing is added any more."""
        facts = {**facts, **self._facts}
        names = {name: writer.done() for name, writer in self._names.items()}
        numbers = {name: column.done() for name, column in self._numbers.items()}
        if self._folder is not None:
            kinds = {name: column.kind for name, column in self._numbers.items()}
            _write(self._folder / FACTS, {"facts": facts, "names": [*names], "numbers": kinds})
        return Sheet(facts, names, numbers, self._folder)

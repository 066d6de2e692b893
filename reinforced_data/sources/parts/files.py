"""The files below a folder, and what of them is left aside, counted by kind.

A walk looks at every file in the order of their names, and holds one folder's at a time; what it found is flat, and kept where it
is much. A file that came, went or changed since makes another walk, and so other listings.
"""

import contextlib
import hashlib
import importlib.util
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError
from reinforced_data.sources.parts.kept.compact import Names, Picked
from reinforced_data.sources.parts.kept.shelf import Sheet, SheetWriter, is_much, remember, shelved

HEIC_SUFFIXES = (".heic", ".heif")
_PLAIN = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".jfif")
READS_HEIC = importlib.util.find_spec("pillow_heif") is not None
IMAGE_SUFFIXES = (*_PLAIN, *HEIC_SUFFIXES) if READS_HEIC else _PLAIN
_NAMED = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".parquet", ".caption", ".xml", ".mat", ".npy", ".npz", ".xlsx")
# What systems lay beside people's files: thumbnails of network disks, what a Mac packs, bins.
_OF_SYSTEMS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
_MOST_NAMED = 2  # more files of one ending in one folder are told as a pattern
_TRIES = 3


class Found:
    """What lies below `folder`.

    Attributes:
        names: relative paths (with "/") of every regular file, sorted; no hidden ones.
        sizes: bytes of the same, [n] int64.
        aside: what was passed over on the way -> how many (linked folders, broken links, ...).
        mark: hex digest of the folder's path and of name, size and time of change of every file.
        much: whether listings of these files are kept.
    """

    def __init__(self, folder: Path, sheet: Sheet) -> None:
        self.folder, self._kept_in = folder, sheet.folder
        self.names: Names = sheet.names["names"]
        self.sizes: Array = sheet.numbers["sizes"]
        self.aside: Counter[str] = Counter(sheet.facts["aside"])
        self.mark: str = sheet.facts["mark"]
        self.much = sheet.folder is not None

    def remember(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` finds out about these files, kept with them where they are kept; see `shelf.remember`."""
        return remember(self._kept_in, name, find)

    @cached_property
    def image_rows(self) -> Array:
        """Of the files, those that are images by their ending, [m] int64."""
        name = f"images-{len(IMAGE_SUFFIXES)}"
        rows: Array = self.remember(name, lambda: _rows_of(self.names, lambda name: ending(name) in IMAGE_SUFFIXES))
        return rows

    @property
    def images(self) -> Sequence[str]:
        """Those that are images by their ending."""
        return Picked(self.names, self.image_rows)

    def unread(self, used: Iterable[str] = (), used_rows: Iterable[Array] = ()) -> dict[str, int]:
        """What is left besides the files `used` and those of `used_rows`, by kind -> count; tables and texts by name or pattern."""
        left = np.ones(len(self.names), np.bool_)
        for rows in used_rows:
            left[rows] = False
        taken = {*used}
        counts: Counter[str] = Counter()
        named: dict[str, list[str]] = {}
        patterned: Counter[str] = Counter()
        for name in (self.names[int(row)] for row in np.flatnonzero(left)):
            suffix = ending(name)
            if name in taken or PurePosixPath(name).stem.lower() in ("license", "licence", "readme"):
                continue
            if suffix in _NAMED:
                pattern = f"{PurePosixPath(name).parent}/*{suffix}".removeprefix("./")
                patterned[pattern] += 1
                if len(some := named.setdefault(pattern, [])) < _MOST_NAMED:
                    some.append(name)
            else:
                counts[told_ending(suffix)] += 1
        patterns: dict[str, int] = {}
        for pattern, names in named.items():
            more = patterned[pattern] > _MOST_NAMED
            patterns |= {pattern: patterned[pattern]} if more else {f"./{n}": 1 for n in names}
        return {**patterns, **dict(counts.most_common()), **self.aside}


def _rows_of(names: Iterable[str], wanted: Callable[[str], bool]) -> Array:
    return np.fromiter((row for row, name in enumerate(names) if wanted(name)), np.int64)


def ending(name: str) -> str:
    """The last ending of a file's name, in small letters."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if stem and dot and last else ""


def told_ending(suffix: str) -> str:
    """An ending for people, with the way to read it where there is one."""
    if suffix in HEIC_SUFFIXES:
        return f"{suffix.upper()} (read with: pip install pillow-heif)"
    return suffix if suffix else "files without an ending"


def walk(folder: Path) -> Found:
    """Every file below `folder`. Links to folders are not followed.

    Raises DistillError when files come and go all the while.
    """
    for _ in range(_TRIES):
        look = _Look(folder)
        few = look.sheet(SheetWriter(None), until=is_much)
        mark = look.mark()
        if few is not None:
            return Found(folder, few)
        with contextlib.suppress(_ChangedError):
            return Found(folder, shelved(["files", mark], True, partial(_kept_sheet, folder, mark), Sheet.kept))
    raise DistillError(
        f"Files in {str(folder)!r} change while they are listed. Wait until nothing writes there, then call again."
    )


def _kept_sheet(folder: Path, mark: str, kept_in: Path | None) -> Sheet:
    """The same files once more, now in a folder of the cache. Raises _ChangedError when they are others than `mark` says."""
    look = _Look(folder)
    sheet = look.sheet(SheetWriter(kept_in))
    if sheet is None or look.mark() != mark:
        raise _ChangedError
    return sheet


class _ChangedError(Exception):
    """What lies in a folder is not what lay there a moment ago."""


class _Look:
    """One look at everything below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._aside: Counter[str] = Counter()
        self._digest = hashlib.sha256(os.fsencode(folder.absolute()))

    def mark(self) -> str:
        """See `Found`; once all files were seen."""
        return self._digest.hexdigest()

    def sheet(self, writer: SheetWriter, until: Callable[..., bool] = lambda rows: False) -> Sheet | None:
        """Names and sizes of all; None where `until` says of their number that they are too many to be held."""
        names, sizes, number = writer.names("names"), writer.numbers("sizes", "i8"), 0
        for number, (name, size) in enumerate(self._files(), 1):
            if not until(rows=number):
                names.append(name)
                sizes.append(size)
        facts = {"mark": self.mark(), "aside": dict(self._aside)}
        return None if until(rows=number) else writer.done(facts)

    def _files(self) -> Iterator[tuple[str, int]]:
        """(path, size in bytes) of each, in order of the paths. One folder's names at a time are in memory, and those above it."""
        stack = [iter(self._entries(""))]
        while stack:
            for name, facts in stack[-1]:
                if facts is None:
                    stack.append(iter(self._entries(name)))
                    break
                size, changed = facts
                self._digest.update(f"{name}\0{size}\0{changed}\0".encode("utf-8", "surrogatepass"))
                yield name, size
            else:
                stack.pop()

    def _entries(self, below: str) -> list[tuple[str, tuple[int, int] | None]]:
        """The files (path, (size, time)) and folders (path with "/" at its end, None) of one folder, in order of their paths."""
        found: list[tuple[str, tuple[int, int] | None]] = []
        before = self._aside.total()
        try:
            with os.scandir(self._folder / below) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        self._take(entry, below + entry.name, found)
        except OSError:
            self._aside["folders that cannot be read"] += 1
        if below and not found and self._aside.total() == before:
            self._aside["empty folders"] += 1
        return sorted(found)

    def _take(self, entry: "os.DirEntry[str]", name: str, found: list[tuple[str, tuple[int, int] | None]]) -> None:
        try:
            if entry.is_dir():
                if entry.is_symlink():
                    self._aside["linked folders"] += 1
                elif entry.name.lower() in _OF_SYSTEMS:
                    self._aside["system folders"] += 1
                else:
                    found.append((f"{name}/", None))
                return
            facts = entry.stat()
        except OSError:
            facts = None
        if facts is not None and stat.S_ISREG(facts.st_mode):
            found.append((name, (facts.st_size, facts.st_mtime_ns)))
        else:
            self._aside["broken links" if entry.is_symlink() else "pipes and devices"] += 1

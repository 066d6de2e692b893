"""The members of tar files by their headers alone, which of them are one sample, and all as flat arrays; nothing is extracted.

Members are grouped the way WebDataset groups them: folder and file name up to the first dot of the name are the sample,
the rest ("jpg", "syn.json") says what the member is; but for dots of names, as in "v2.0.jpg" or "a.b.jpg" with "a.b.txt". What
is not an ordinary file with a plain relative name is listed in `problems` with its reason and never read. Compressed tars are
left out: they have no random access. Reading members is the business of `tar_index`.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError
from reinforced_data.sources.parts.kept.compact import Column, Names, NamesWriter, names_in, repeated

MAX_HEADER_BYTES = 1 << 20  # of a long name or a pax header; a longer one is an attack or damage
MAX_KEY_CHARS = 1024
_BLOCK = 512
_TEXTS, _MOST_DIGITS = ("txt", "caption", "text"), 3  # of one of several texts of an image
COLUMNS = {"tar": "i4", "first": "i8", "kind": "i4", "offset": "i8", "size": "i8"}  # of a `Layout`


@dataclass(frozen=True)
class Member:
    """A member that is an ordinary file: where its bytes lie in the tar. `kind` is all after the first dot."""

    key: str
    kind: str
    offset: int
    size: int


@dataclass(frozen=True)
class Problem:
    """A member, or the rest of a tar, that is not read, and why."""

    key: str
    reason: str


class _Headers:
    """A file of which `tarfile` may read small pieces only: a header that declares gigabytes costs an error."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def scan(path: Path) -> Iterator[Member | Problem]:
    """Every member of an uncompressed tar in order, from its headers alone.

    A tar that is cut short or damaged gives what lies before, then one problem that says where it ends. Raises
    DistillError naming the file when it cannot be opened or is no tar at all.
    """
    try:
        with open(path, "rb") as file:
            yield from _scan(path, file)
    except OSError as error:
        raise DistillError(f"The tar {str(path)!r} cannot be read ({error.strerror or error}). Check it.") from error


def _scan(path: Path, file: BinaryIO) -> Iterator[Member | Problem]:
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(2) == b"\x1f\x8b":
        raise DistillError(
            f"{str(path)!r} is compressed, which leaves no random access. Unpack it: gunzip < it > x.tar"
        )
    file.seek(0)
    try:
        tar = tarfile.TarFile(fileobj=_Headers(file), mode="r", encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError) as error:
        raise DistillError(f"{str(path)!r} is no tar file ({error}). Copy it again, or leave it out.") from error
    position = 0
    while True:
        file.seek(position)
        first = file.read(_BLOCK)
        if not first.strip(b"\0"):
            if len(first) < _BLOCK:  # the two empty blocks that end a tar are not there
                yield Problem(path.name, f"the tar ends at byte {end} without its end mark; it may be cut short")
            return
        file.seek(position)
        try:
            info = tarfile.TarInfo.fromtarfile(tar)
            following = tar.offset
            if info.size < 0 or following <= position:
                raise tarfile.HeaderError("a size below zero")
        except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            words = "too many headers in a row" if isinstance(error, RecursionError) else str(error)[:100]
            yield Problem(path.name, f"the tar is damaged at byte {position} ({words}); what follows is not read")
            return
        found = _member(info, end)
        if found is not None:
            yield found
        if following > end:
            if isinstance(found, Member):
                yield Problem(path.name, f"the tar is cut short in the padding after byte {info.offset_data}")
            return
        position = following


def _member(info: tarfile.TarInfo, end: int) -> Member | Problem | None:
    """The member as data, the reason against it, or None for what is no data (folders, hidden files)."""
    name = info.name.removeprefix("./").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    shown = name[:200]
    reason = ""
    if info.isdir():
        return None
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        reason = "its name leads out of the tar"
    elif info.issym() or info.islnk():
        reason = "it is a link"
    elif not info.isreg() or info.issparse():
        reason = "it is no ordinary file"
    elif info.offset_data + info.size > end:
        reason = f"the tar is cut short: it declares {info.size} bytes and {max(0, end - info.offset_data)} are there"
    elif len(name) > MAX_KEY_CHARS:
        reason = f"its name has {len(name)} characters"
    folder, _, last = name.rpartition("/")
    stem, dot, kind = last.partition(".")
    while "." in kind and re.match(r"\d|[^.]* ", kind):  # "photo 2.0.png": a dot of the name, not of the ending
        more, _, kind = kind.partition(".")
        stem = f"{stem}.{more}"
    if reason:
        return Problem(shown, reason)
    if last.startswith("."):
        return None
    if not dot or not stem:
        return Problem(shown, "its name has no ending that says what it is")
    return Member(f"{folder}/{stem}" if folder else stem, kind.lower(), info.offset_data, info.size)


def _by_last_dot(key: str, members: list[Member]) -> list[tuple[str, list[Member]]]:
    """A group as it is, or parted where the dots are of names: no ending is plain, and names before the last dot repeat."""
    parted: dict[str, list[Member]] = {}
    for member in members:
        more, _, kind = member.kind.rpartition(".")
        parted.setdefault(f"{key}.{more}", []).append(replace(member, key=f"{key}.{more}", kind=kind))
    if all("." in member.kind for member in members) and any(len(found) > 1 for found in parted.values()):
        return list(parted.items())
    return [(key, members)]


def groups_in(file: Path) -> tuple[dict[str, list[Member]], list[Problem]]:
    """(key -> its members, problems) of a tar, both in its order. Raises DistillError when the file is no tar."""
    groups: dict[str, list[Member]] = {}
    problems: list[Problem] = []
    for found in scan(file):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        members = groups.setdefault(found.key, [])
        if any(member.kind == found.kind for member in members):
            problems.append(Problem(f"{found.key}.{found.kind}", "the tar has two members of this name"))
        else:
            members.append(found)
    _join_numbered_texts(groups)
    return {key: members for group in groups.items() for key, members in _by_last_dot(*group)}, problems


def _join_numbered_texts(groups: dict[str, list[Member]]) -> None:
    """Several texts of an image, "7.0.txt" and "7.1.txt" beside "7.jpg", become members 0.txt and 1.txt of its sample."""
    for key in [key for key, members in groups.items() if all(member.kind in _TEXTS for member in members)]:
        stem, _, number = key.rpartition(".")
        if (
            number.isdecimal()
            and len(number) <= _MOST_DIGITS
            and any(m.kind not in _TEXTS for m in groups.get(stem, ()))
        ):
            kinds = {member.kind for member in groups[stem]}
            moved = [replace(member, key=stem, kind=f"{number}.{member.kind}") for member in groups.pop(key)]
            groups[stem] += [member for member in moved if member.kind not in kinds]


@dataclass(frozen=True)
class Layout:
    """The samples of tars as flat arrays.

    Attributes:
        keys: per sample. kinds: of members, by number. problems: sample -> why it cannot be read.
        tar: per sample the number of its file. first: per sample, and one more, its first member.
        kind, offset, size: per member.
    """

    keys: Names
    kinds: list[str]
    problems: dict[int, str]
    tar: Array
    first: Array
    kind: Array
    offset: Array
    size: Array


class OneTar(NamedTuple):
    """A tar by itself: its samples, and a number per key that equal keys have in common, in whichever process it was read."""

    layout: Layout
    marks: Array


def read_tar(file: Path) -> OneTar:
    """What lies where in a tar. Raises DistillError when the file is none."""
    groups, problems = groups_in(file)
    names, marks = NamesWriter(), Column("i8")
    columns = {name: Column(kind) for name, kind in COLUMNS.items()}
    columns["first"].append(0)
    numbers: dict[str, int] = {}

    def append(key: str, members: Sequence[Member]) -> None:
        names.append(key)
        marks.extend(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        columns["tar"].append(0)
        for member in members:
            columns["kind"].append(numbers.setdefault(member.kind, len(numbers)))
            columns["offset"].append(member.offset)
            columns["size"].append(member.size)
        columns["first"].append(len(columns["kind"]))

    for key, members in groups.items():
        append(key, members)
    reasons = {}
    for problem in problems:
        reasons[len(names)] = problem.reason
        append(problem.key, [])
    arrays = {name: column.done() for name, column in columns.items()}
    return OneTar(Layout(names.done(), list(numbers), reasons, **arrays), marks.done())


class LayoutWriter:
    """Takes tars one after the other into a layout, in memory or, where a folder is given, in its files."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._names = NamesWriter(folder)
        self._columns = {name: Column(kind, folder / name if folder else None) for name, kind in COLUMNS.items()}
        self._columns["first"].append(0)
        self._numbers: dict[str, int] = {}
        self._problems: dict[int, str] = {}
        self._marks = Column("i8")  # of keys, to find those that come again without holding all of them

    def add(self, number: int, tar: OneTar) -> None:
        """Take tar number `number`."""
        layout, row, member = tar.layout, len(self._names), len(self._columns["kind"])
        kinds = [self._numbers.setdefault(kind, len(self._numbers)) for kind in layout.kinds]
        self._problems |= {row + place: reason for place, reason in layout.problems.items()}
        self._names.extend(layout.keys)
        self._marks.extend(tar.marks.tobytes())
        added = {
            "tar": np.full(len(layout.tar), number, np.int32),
            "first": layout.first[1:] + member,
            "kind": np.array(kinds, np.int32)[layout.kind],
            "offset": layout.offset,
            "size": layout.size,
        }
        for name, numbers in added.items():
            self._columns[name].extend(numbers.tobytes())

    def done(self, files: Sequence[Path]) -> Layout:
        """The layout. A key that an earlier tar has had gets its own tar's name in front; a problem's keeps its own."""
        names = self._names.done()
        arrays = {name: column.done() for name, column in self._columns.items()}
        again = repeated(self._marks.done())
        if again.any():
            names = self._renamed(names, arrays["tar"], again, files)
        return Layout(names, list(self._numbers), self._problems, **arrays)

    def _renamed(self, names: Names, tars: Array, candidate: Array, files: Sequence[Path]) -> Names:
        aside = None if self._folder is None else self._folder / "renamed"
        if aside is not None:
            aside.mkdir()
        writer = NamesWriter(aside)
        seen: dict[str, int] = {}
        for row, key in enumerate(names):
            if candidate[row] and row not in self._problems:
                number = int(tars[row])
                if seen.setdefault(key, number) < number:
                    key = f"{files[number].stem}/{key}"
            writer.append(key)
        renamed = writer.done()
        if self._folder is None or aside is None:
            return renamed
        for file in aside.iterdir():
            os.replace(file, self._folder / file.name)
        aside.rmdir()
        return names_in(self._folder)

"""What lies where in tar files: headers are read once, members with one read each, and nothing is ever extracted.

Members are grouped the way WebDataset groups them: folder and file name up to the first dot of the name are the sample,
the rest ("jpg", "syn.json") says what the member is; but for dots of names, as in "v2.0.jpg" or "a.b.jpg" with "a.b.txt". What
is not an ordinary file with a plain relative name is listed in `problems` with its reason and never read. Compressed tars are
left out: they have no random access.
"""

import os
import re
import tarfile
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from distill.core.errors import DistillError
from reinforced_data.pixels.decode import BadImageError

MAX_HEADER_BYTES = 1 << 20  # of a long name or a pax header; a longer one is an attack or damage
MAX_KEY_CHARS = 1024
_BLOCK = 512
_OPEN_FILES = 64


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


class Names(Sequence[str]):
    """Many strings as one block of bytes: a tenth of the memory of a list."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q")

    def append(self, name: str) -> None:
        """Add one at the end."""
        self._bytes += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        row = range(len(self._ends))[row]
        start = self._ends[row - 1] if row else 0
        return bytes(self._bytes[start : self._ends[row]]).decode("utf-8", "surrogatepass")


def _by_last_dot(key: str, members: list[Member]) -> list[tuple[str, list[Member]]]:
    """A group as it is, or parted where the dots are of names: no ending is plain, and names before the last dot repeat."""
    parted: dict[str, list[Member]] = {}
    for member in members:
        more, _, kind = member.kind.rpartition(".")
        parted.setdefault(f"{key}.{more}", []).append(replace(member, key=f"{key}.{more}", kind=kind))
    if all("." in member.kind for member in members) and any(len(found) > 1 for found in parted.values()):
        return list(parted.items())
    return [(key, members)]


class TarIndex:
    """The samples of `files`, in order: for each its key and members. Held as flat arrays; picklable.

    A key that an earlier tar has had gets its tar's name in front. Every problem is a sample of its own, without
    members, whose `problem` says the reason, so that it is counted where samples are counted.

    Raises DistillError when a file is no tar.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.keys = Names()
        self.kinds: list[str] = []
        self.problems: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._tar = array("i")  # per sample
        self._first = array("q", [0])  # per sample and one more: its first member
        self._kind, self._offset, self._size = array("i"), array("q"), array("q")  # per member
        seen: set[str] = set()
        for number, file in enumerate(self.files):
            self._add(number, file, seen)
        self._open: OrderedDict[int, FileIO] = OrderedDict()

    def _add(self, number: int, file: Path, seen: set[str]) -> None:
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
        groups = {key: members for group in groups.items() for key, members in _by_last_dot(*group)}
        for key, members in groups.items():
            self._append(number, f"{file.stem}/{key}" if key in seen else key, members)
        seen.update(groups)
        for problem in problems:
            self.problems[len(self.keys)] = problem.reason
            self._append(number, problem.key, [])

    def _append(self, number: int, key: str, members: Sequence[Member]) -> None:
        self.keys.append(key)
        self._tar.append(number)
        for member in members:
            if member.kind not in self._numbers:
                self._numbers[member.kind] = len(self.kinds)
                self.kinds.append(member.kind)
            self._kind.append(self._numbers[member.kind])
            self._offset.append(member.offset)
            self._size.append(member.size)
        self._first.append(len(self._kind))

    def __len__(self) -> int:
        return len(self.keys)

    def __del__(self) -> None:
        for file in getattr(self, "_open", {}).values():
            file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Kind -> (offset, size in bytes) of a sample's members."""
        places = range(self._first[row], self._first[row + 1])
        return {self.kinds[self._kind[place]]: (self._offset[place], self._size[place]) for place in places}

    def count_of_kinds(self) -> dict[str, int]:
        """Kind -> how many members are of it."""
        counts = Counter(self._kind)
        return {kind: counts[number] for number, kind in enumerate(self.kinds)}

    def read(self, row: int, kind: str, most: int) -> bytes:
        """The bytes of one member.

        Raises BadImageError naming the sample when it has no such member, one of more than `most` bytes, or one that
        cannot be read whole.
        """
        key = self.keys[row]
        if kind not in (members := self.members(row)):
            raise BadImageError(key, f"it has no member .{kind} in {self.files[self._tar[row]].name}")
        offset, size = members[kind]
        if size > most:
            raise BadImageError(key, f"its member .{kind} has {size} bytes, more than {most}")
        try:
            data = os.pread(self._file(self._tar[row]).fileno(), size, offset)  # no shared position: safe in threads
        except OSError as error:
            raise BadImageError(key, f"its tar cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise BadImageError(key, f"its member .{kind} is cut short: {len(data)} of {size} bytes")
        return data

    def tar_of(self, row: int) -> Path:
        """The file that holds a sample."""
        return self.files[self._tar[row]]

    def footprint(self) -> list[list[Any]]:
        """What a fingerprint is made of: names, sizes and layout of all tars."""
        sizes = [[file.name, file.stat().st_size] for file in self.files]
        return [*sizes, [sum(self._offset) % (1 << 62), sum(self._size), len(self._kind), len(self.keys)]]

    def _file(self, number: int) -> FileIO:
        file = self._open.get(number)
        if file is None:
            file = self._open[number] = FileIO(self.files[number])
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return file

"""`TarIndex`: what lies where in many tars. Headers are read once, members with one read each.

The index of much data is kept, see `shelf`.
"""

import multiprocessing
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.atomic import read_json, write_json
from distill.core.errors import DistillError
from distill.core.machine import usable_cores
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.sources.parts.kept.compact import mapped, names_in
from reinforced_data.sources.parts.kept.shelf import FACTS, is_much, remember, shelved
from reinforced_data.sources.parts.tars.members import COLUMNS, Layout, LayoutWriter, OneTar, read_tar

_OPEN_FILES = 64


class TarIndex:
    """The samples of `files`, in order: for each its key and members. Held as flat arrays; picklable.

    A key that an earlier tar has had gets its tar's name in front. Every problem is a sample of its own, without
    members, whose `problem` says the reason, so that it is counted where samples are counted.

    Args:
        folder: an empty one, where the arrays are kept; None = in memory. See `read_index` for which it is.

    Raises DistillError when a file is no tar.
    """

    def __init__(self, files: Sequence[Path], folder: Path | None = None) -> None:
        writer = LayoutWriter(folder)
        for number, tar in enumerate(map(read_tar, files) if folder is None else _read_by_processes(files)):
            writer.add(number, tar)
        self._take(files, writer.done(files), None)
        if folder is not None:
            facts = {"kinds": self.kinds, "problems": [[row, why] for row, why in self.problems.items()]}
            write_json(folder / FACTS, facts)

    def _take(self, files: Sequence[Path], layout: Layout, folder: Path | None) -> None:
        self.files: list[Path] = list(files)
        self.folder, self._layout = folder, layout
        self.keys, self.kinds, self.problems = layout.keys, layout.kinds, layout.problems
        self._stats = np.array([_size_and_time(file.stat()) for file in files], np.int64).reshape(-1, 2)
        self._open: OrderedDict[int, FileIO] = OrderedDict()

    @classmethod
    def kept(cls, files: Sequence[Path], folder: Path) -> "TarIndex":
        """The index of `files` that lies in `folder`."""
        facts = read_json(folder / FACTS)
        arrays = {name: mapped(folder / name, kind) for name, kind in COLUMNS.items()}
        index = cls.__new__(cls)
        index._take(
            files,
            Layout(names_in(folder), facts["kinds"], {int(k): v for k, v in facts["problems"]}, **arrays),
            folder,
        )
        return index

    def __len__(self) -> int:
        return len(self.keys)

    def __del__(self) -> None:
        for file in getattr(self, "_open", {}).values():
            file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def remember(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` finds out about these samples, kept with an index that is kept; see `shelf.remember`."""
        return remember(self.folder, name, find)

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Kind -> (offset, size in bytes) of a sample's members."""
        layout = self._layout
        part = slice(int(layout.first[row]), int(layout.first[row + 1]))
        kinds, offsets, sizes = (column[part].tolist() for column in (layout.kind, layout.offset, layout.size))
        return {self.kinds[kind]: (offset, size) for kind, offset, size in zip(kinds, offsets, sizes, strict=True)}

    def first_of(self, kinds: Sequence[str]) -> Array:
        """Per sample the member of the first of these kinds that it has, by number; -1 where it has none."""
        found = np.full(len(self), -1, np.int64)
        for kind in reversed(kinds):
            for start, numbers, rows in self._blocks():
                which = np.flatnonzero(numbers == self.kinds.index(kind))
                found[rows[which]] = start + which
        return found

    def _blocks(self, rows_at_once: int = 1 << 20) -> Iterator[tuple[int, Array, Array]]:
        """(first member, kinds of members, rows of members), a block of samples after the other."""
        first = self._layout.first
        for row in range(0, len(self), rows_at_once):
            ends = np.asarray(first[row : row + rows_at_once + 1])
            rows = np.repeat(np.arange(row, row + len(ends) - 1), np.diff(ends))
            yield int(ends[0]), np.asarray(self._layout.kind[ends[0] : ends[-1]]), rows

    def member_sizes(self, members: Array) -> Array:
        """Bytes of members by number, -1 for none."""
        return (
            np.where(members >= 0, self._layout.size[members], -1)
            if len(self._layout.size)
            else np.full_like(members, -1)
        )

    def count_of_kinds(self) -> dict[str, int]:
        """Kind -> how many members are of it."""
        return dict(self.remember("kinds", self._count_of_kinds))

    def _count_of_kinds(self) -> dict[str, int]:
        counts = np.zeros(len(self.kinds), np.int64)
        for _, numbers, _ in self._blocks():
            counts += np.bincount(numbers, minlength=len(self.kinds))
        return dict(zip(self.kinds, counts.tolist(), strict=True))

    def read(self, row: int, kind: str, most: int) -> bytes:
        """The bytes of one member.

        Raises BadImageError naming the sample when it has no such member, one of more than `most` bytes, or one that
        cannot be read whole.
        """
        key = self.keys[row]
        if kind not in (members := self.members(row)):
            raise BadImageError(key, f"it has no member .{kind} in {self.tar_of(row).name}")
        offset, size = members[kind]
        if size > most:
            raise BadImageError(key, f"its member .{kind} has {size} bytes, more than {most}")
        data = self._at(row, offset, size)
        if len(data) != size:
            raise BadImageError(key, f"its member .{kind} is cut short: {len(data)} of {size} bytes")
        return data

    def end_of(self, row: int, member: int, count: int) -> bytes:
        """The last `count` bytes of a member, by number, of sample `row`. Raises BadImageError when its tar cannot be read."""
        size = int(self._layout.size[member])
        return self._at(row, int(self._layout.offset[member]) + max(0, size - count), min(size, count))

    def _at(self, row: int, offset: int, size: int) -> bytes:
        number = int(self._layout.tar[row])
        try:  # no shared position: safe in threads
            file = self._file(number).fileno()
            changed = _size_and_time(os.fstat(file)) != tuple(self._stats[number].tolist())
            data = os.pread(file, size, offset)
        except OSError as error:
            raise BadImageError(self.keys[row], f"its tar cannot be read ({error.strerror})") from error
        if changed:  # something else may lie there now
            raise BadImageError(self.keys[row], f"its tar {self.files[number].name} has changed since it was listed")
        return data

    def tar_of(self, row: int) -> Path:
        """The file that holds a sample."""
        return self.files[int(self._layout.tar[row])]

    def footprint(self) -> list[list[Any]]:
        """What a fingerprint is made of: names, sizes and layout of all tars."""
        sizes = [[file.name, file.stat().st_size] for file in self.files]
        layout = self._layout
        sums = self.remember("sums", lambda: [_sum(layout.offset) % (1 << 62), _sum(layout.size)])
        return [*sizes, [*sums, len(layout.kind), len(self.keys)]]

    def _file(self, number: int) -> FileIO:
        file = self._open.get(number)
        if file is None:
            file = self._open[number] = FileIO(self.files[number])
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return file


def _size_and_time(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _read_by_processes(files: Sequence[Path]) -> Iterator[OneTar]:
    """Each of the tars in order, read by a process per core: their headers are Python's work."""
    workers = min(len(files), usable_cores())
    if workers < 2 or multiprocessing.current_process().daemon:  # such a process may start none
        yield from map(read_tar, files)
        return
    coming: deque[Future[OneTar]] = deque()
    try:
        with ProcessPoolExecutor(workers) as pool:
            for file in files:
                coming.append(pool.submit(read_tar, file))
                if len(coming) > 4 * workers:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
    except BrokenExecutor as error:
        raise DistillError(
            "A process that lists tars died. Signal 9 is mostly the system running out of memory. Call again; nothing was kept."
        ) from error


def _sum(numbers: Array) -> int:
    return sum(int(numbers[start : start + (1 << 20)].sum()) for start in range(0, len(numbers), 1 << 20))


# --- which indexes are kept, and where ---


def read_index(files: Sequence[Path]) -> TarIndex:
    """The index of `files`, read once per process while they stay as they are, and of much data once at all.

    Raises DistillError when a file is no tar.
    """
    stats = [(file, file.stat()) for file in files]
    return _index(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@lru_cache(maxsize=8)
def _index(files: tuple[tuple[Path, int, int], ...]) -> TarIndex:
    paths = [file for file, _, _ in files]
    identity = [[str(file.absolute()), *told] for file, *told in files]
    much = is_much(sum(size for _, size, _ in files))
    return shelved(identity, much, lambda folder: TarIndex(paths, folder), lambda folder: TarIndex.kept(paths, folder))

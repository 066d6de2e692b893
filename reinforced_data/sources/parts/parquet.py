"""Random access to the rows of Parquet files: one row group is read at a time and a bounded number are kept.

Used for tables that users bring and for our own shards. Rows are numbered through the files in the order given.
Picklable (open files and kept groups are dropped), so that data loader workers may take a copy.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError
from reinforced_data.sources.parts.kept.compact import Column

BUDGET_BYTES = 256 << 20  # decoded row groups kept in memory per reader
_OPEN_FILES = 64


def open_parquet(path: Path) -> Any:
    """A pyarrow ParquetFile, memory-mapped. Raises DistillError naming the file when it is no whole Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DistillError(
            f"The file {str(path)!r} cannot be read as Parquet ({error}). It may be cut short; copy or make it again."
        ) from error


def read_group(parquet: Any, group: int, names: list[str], file: Path) -> Any:
    """Columns of a row group of an open Parquet file. Raises DistillError naming the file when they are damaged."""
    import pyarrow as pa

    try:
        table = parquet.read_row_group(group, columns=names)
        table.validate(full=True)  # strings that are not UTF-8 would raise later, in the middle of a run
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise DistillError(
            f"The column(s) {', '.join(names)} of {str(file)!r} cannot be read ({words}). The file is damaged; copy or "
            "make it again."
        ) from error


def first_cells(file: Path, most: int = 20) -> dict[str, list[Any]]:
    """The first few cells of every column that may hold images or their paths: bytes, texts, or objects with either."""
    import pyarrow as pa

    with open_parquet(file) as parquet:
        kinds = {field.name: field.type for field in parquet.schema_arrow}
        wanted = [name for name, kind in kinds.items() if _may_hold_images(kind)]
        try:
            batch = next(parquet.iter_batches(batch_size=most, columns=wanted), None) if wanted else None
        except (pa.ArrowException, OSError):  # damaged: whoever reads it says so
            return {}
        return {name: batch.column(name).to_pylist() for name in wanted} if batch is not None else {}


def _may_hold_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    return any(test(kind) for test in tests)


def footer_sha256(file: Path) -> str:
    """Hash of a Parquet file's footer: schema, row counts, offsets and sizes of every column chunk."""
    with open(file, "rb") as stream:
        stream.seek(-8, 2)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, 2)
        return hashlib.sha256(stream.read(length)).hexdigest()


class Kept(Protocol):
    """What is kept of a row group."""

    nbytes: int


G = TypeVar("G", bound=Kept)


def row_groups(files: Sequence[Path]) -> Array:
    """The row groups of the files: the first row of each, their files' numbers, their numbers there, and how many rows there are.

    Returns [3 n + 1] int64. Raises DistillError when a file cannot be read.
    """
    starts, numbers, groups, rows = Column("i8"), Column("i8"), Column("i8"), 0
    for number, file in enumerate(files):
        with open_parquet(file) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                starts.append(rows)
                numbers.append(number)
                groups.append(group)
                rows += parquet.metadata.row_group(group).num_rows
    return np.concatenate([starts.done(), numbers.done(), groups.done(), [rows]]).astype(np.int64)


def _stat(file: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where it is not there."""
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns


class RowGroups(Generic[G]):
    """The rows of `files`, of which `columns` (None = all) are read.

    Args:
        prepare: turns the pyarrow Table of a row group (one chunk per column) into what is kept and served.
        layout: what `row_groups` says of the files, where it is known already.

    Raises DistillError when a file cannot be read, or is no longer the one that it was at first.
    """

    def __init__(
        self,
        files: list[Path],
        prepare: Callable[[Any], G],
        columns: list[str] | None = None,
        budget_bytes: int = BUDGET_BYTES,
        layout: Array | None = None,
    ) -> None:
        self.files = files
        self._prepare = prepare
        self._columns = columns
        self._budget = budget_bytes
        self._layout = row_groups(files) if layout is None else layout
        self._groups = len(self._layout) // 3
        self._rows = int(self._layout[-1])
        self._stats = [_stat(file) for file in files]
        self._clear()

    def _clear(self) -> None:
        self._kept: OrderedDict[int, G] = OrderedDict()
        self._kept_bytes = 0
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_kept", "_kept_bytes", "_open"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def find(self, row: int) -> tuple[G, int]:
        """(the row group that holds `row`, the row's place in it). Raises IndexError outside the table."""
        if not 0 <= row < self._rows:
            raise IndexError(row)
        starts = self._layout[: self._groups]
        index = int(np.searchsorted(starts, row, "right")) - 1  # of groups that share a start only the last has rows
        return self._group(index), row - int(starts[index])

    def _group(self, index: int) -> G:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        number, group = map(int, self._layout[[self._groups + index, 2 * self._groups + index]])
        kept = self._prepare(self._read(number, group))
        self._kept[index] = kept
        self._kept_bytes += kept.nbytes
        while self._kept_bytes > self._budget and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
        return kept

    def _read(self, number: int, group: int) -> Any:
        import pyarrow as pa

        if number not in self._open:
            if _stat(self.files[number]) != self._stats[number]:
                raise DistillError(
                    f"The file {str(self.files[number])!r} has changed since it was opened. Leave the data as it is "
                    "while it is read, then call again."
                )
            self._open[number] = open_parquet(self.files[number])
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        try:
            # One chunk per column, so that a cell is found by offset alone.
            return self._open[number].read_row_group(group, columns=self._columns, use_threads=False).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise DistillError(
                f"Row group {group} of {str(self.files[number])!r} cannot be read ({error}). The file is damaged; "
                "copy or make it again."
            ) from error

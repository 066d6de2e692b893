"""What is known of the shards of a set, and random access to their rows: memory maps, of which nothing is read until it is touched.

Of up to `LISTED_SHARDS` shards the manifest lists what is known; of more a table beside it does, which every process maps.
Left out: what the cells mean (`reader`), and tables that users bring (`sources.parts.parquet`). Picklable (open files are
dropped), so that data loader workers may take a copy.
"""

import bisect
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic_core import core_schema

from distill.core.atomic import sha256_file, staged_file
from distill.core.errors import DistillError
from distill.core.strict import Strict
from reinforced_data.store.names import SHARD_TABLE

LISTED_SHARDS = 10_000  # in the manifest itself
_OPEN_FILES = 256  # shards kept mapped per reader

B = TypeVar("B")


class ShardFacts(Strict):
    """One shard file: its hash and size, and how many samples, captions and rejected samples it accounts for."""

    file: str
    sha256: str
    size_bytes: int
    samples: int
    captions: int
    rejected: int


class ShardTable(Sequence[ShardFacts]):
    """The facts of very many shards, in an Arrow file that is mapped; its columns are the names of `ShardFacts`.

    Args:
        file: the table. sha256: its hash, which is in the manifest and is believed here (see `described`).
    """

    def __init__(self, file: Path, sha256: str) -> None:
        import pyarrow as pa

        self.file, self.sha256 = file, sha256
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()  # zero-copy
        except (pa.ArrowException, OSError) as error:
            raise DistillError(f"The table of shards {str(file)!r} cannot be read ({error}). Copy it again.") from error

    @classmethod
    def written(cls, folder: Path, shards: Iterable[ShardFacts]) -> "ShardTable":
        """The table of a set in `folder`, written there atomically; the same shards give the same bytes."""
        import pyarrow as pa

        kinds = {"file": pa.string(), "sha256": pa.string(), "size_bytes": pa.int64()}
        names = list(ShardFacts.model_fields)
        schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in names])
        columns: list[list[Any]] = [[] for _ in names]
        batches = []

        def end_batch() -> None:
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            batches.append(pa.record_batch(arrays, schema=schema))
            for column in columns:
                column.clear()

        for facts in shards:
            for column, name in zip(columns, names, strict=True):
                column.append(getattr(facts, name))
            if len(columns[0]) == LISTED_SHARDS:
                end_batch()
        end_batch()
        file = folder / SHARD_TABLE
        with (
            staged_file(file, shared=True) as temporary,
            pa.OSFile(str(temporary), "wb") as stream,
            pa.ipc.new_file(stream, schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
        return cls(file, sha256_file(file))

    @classmethod
    def described(cls, folder: Path, told: Mapping[str, Any]) -> "ShardTable":
        """The table that a manifest in `folder` describes. Raises DistillError when it is missing or another one."""
        file = folder / SHARD_TABLE
        if not file.is_file() or sha256_file(file) != told.get("sha256"):
            found = "has another SHA-256 than the manifest says" if file.is_file() else "is missing"
            raise DistillError(
                f"The table of shards {str(file)!r} {found}. Copy it again, or remake the manifest with --resume."
            )
        return cls(file, str(told["sha256"]))

    def told(self) -> dict[str, Any]:
        """What the manifest says in place of the shards."""
        return {"file": self.file.name, "sha256": self.sha256, "count": len(self)}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        number = range(len(self))[number]
        return ShardFacts(**{name: self._table[name][number].as_py() for name in self._table.column_names})

    def column(self, name: str) -> Any:
        """One fact of all shards, as a pyarrow column."""
        return self._table[name]

    def __reduce__(self) -> Any:
        return ShardTable, (self.file, self.sha256)

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> core_schema.CoreSchema:
        as_json = core_schema.plain_serializer_function_ser_schema(lambda table: table.told())
        return core_schema.is_instance_schema(cls, serialization=as_json)


class Files(Sequence[Path]):
    """The shard files of a set, each a path when it is asked for."""

    def __init__(self, folder: Path, shards: Sequence[ShardFacts]) -> None:
        self._folder, self._shards = folder, shards

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        return self._folder / self._shards[number].file


class Shards(Generic[B]):
    """The rows of Arrow IPC files, numbered through the files in the order given.

    Args:
        files: the shards.
        counts: rows of each.
        prepare: makes of a pyarrow RecordBatch (zero-copy, mapped) what `find` returns; kept while the file is open.
        check: called with a file's number before it is opened; raises DistillError for one that is not the manifest's.
    """

    def __init__(
        self,
        files: Sequence[Path],
        counts: Iterable[int],
        prepare: Callable[[Any], B],
        check: Callable[[int], object] = lambda number: None,
    ) -> None:
        self.files = files
        self._prepare, self._check = prepare, check
        self._starts = array("q", [0])
        for count in counts:
            self._starts.append(self._starts[-1] + count)
        self._open: OrderedDict[int, tuple[list[int], list[B]]] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def find(self, row: int) -> tuple[B, int]:
        """(the record batch that holds `row`, the row's place in it).

        Raises IndexError outside the table, DistillError when the file is damaged.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = bisect.bisect_right(self._starts, row) - 1
        starts, batches = self._file(number)
        place = row - self._starts[number]
        batch = bisect.bisect_right(starts, place) - 1
        return batches[batch], place - starts[batch]

    def batches(self) -> Iterator[tuple[int, B]]:
        """(first row, batch) of every record batch, in order. Raises DistillError when a file is damaged."""
        for number in range(len(self.files)):
            starts, batches = self._file(number)
            for start, batch in zip(starts, batches, strict=True):
                yield self._starts[number] + start, batch

    def _file(self, number: int) -> tuple[list[int], list[B]]:
        if number not in self._open:
            self._open[number] = self._map(number)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def _map(self, number: int) -> tuple[list[int], list[B]]:
        import pyarrow as pa

        self._check(number)
        wanted = self._starts[number + 1] - self._starts[number]
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.files[number])))  # batches keep the map alive
            batches = [reader.get_batch(place) for place in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate()
        except (pa.ArrowException, OSError) as error:
            raise DistillError(
                f"The shard {str(self.files[number])!r} cannot be read ({error}). Copy it again; the manifest has its "
                "SHA-256."
            ) from error
        starts, rows = [], 0
        for batch in batches:
            starts.append(rows)
            rows += batch.num_rows
        if rows != wanted:
            raise DistillError(
                f"The shard {str(self.files[number])!r} has {rows} samples where the manifest says {wanted}. Copy it "
                "again; the manifest has its SHA-256."
            )
        return starts, [self._prepare(batch) for batch in batches]

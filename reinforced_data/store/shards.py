"""Random access to the rows of shard files through memory maps: nothing is read until a cell is touched.

Left out: what the cells mean (`reader`), and tables that users bring (`sources.parts.parquet`). Picklable (open files are dropped),
so that data loader workers may take a copy.
"""

import bisect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from distill.core.errors import DistillError

_OPEN_FILES = 256  # shards kept mapped per reader

B = TypeVar("B")


class Shards(Generic[B]):
    """The rows of Arrow IPC files, numbered through the files in the order given.

    Args:
        files: the shards.
        counts: rows of each.
        prepare: makes of a pyarrow RecordBatch (zero-copy, mapped) what `find` returns; kept while the file is open.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int], prepare: Callable[[Any], B]) -> None:
        self.files = files
        self._prepare = prepare
        self._starts = [0]
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

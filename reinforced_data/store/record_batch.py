"""`StoredBatch`: the cells of one mapped record batch of a shard, as Python objects and NumPy views.

Numbers are reached through the Arrow buffers, without a copy; see `shard_file` for the columns.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from distill.core.arrays import Array
from reinforced_data.sample import Caption, View
from reinforced_data.store.codec import Encoded
from reinforced_data.store.dtypes import NUMPY_DTYPES
from reinforced_data.store.row import Row
from reinforced_data.store.shard_file import embeds_column, scales_column

_BOX = ("left", "top", "width", "height")


class StoredBatch:
    """Access to the rows of a pyarrow RecordBatch in the shard format, whose numbers are of type `dtype`."""

    def __init__(self, batch: Any, dtype: str) -> None:
        self._columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        self._schema = batch.schema
        self._dtype = dtype
        self._arrays: dict[str, tuple[Array, ...]] = {}

    def cell(self, column: str, place: int) -> Any:
        """A plain cell as a Python object."""
        return self._columns[column][place].as_py()

    def places(self, column: str, values: Collection[str]) -> Iterator[tuple[int, str]]:
        """(place, cell) of every row whose cell in a column of texts is among `values`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        cells = self._columns[column]
        mask = pc.is_in(cells, value_set=pa.array(sorted(values), cells.type))
        for place in np.flatnonzero(mask.to_numpy(zero_copy_only=False)):
            yield int(place), cells[int(place)].as_py()

    def count(self, column: str, place: int) -> int:
        """How many items the list cell has."""
        offsets = self._offsets(column)
        return int(offsets[place + 1]) - int(offsets[place])

    def caption(self, place: int, number: int) -> Caption:
        """One caption of a row."""
        item = int(self._offsets("captions")[place]) + number
        return Caption(
            self._columns["captions"].values[item].as_py(), self._columns["caption_sources"].values[item].as_py()
        )

    def view(self, place: int, number: int) -> View:
        """One view of a row."""
        if "views" not in self._arrays:
            self._arrays["views"] = self._view_arrays()
        offsets, *box, ops, codes, magnitudes = self._arrays["views"]
        item = int(offsets[place]) + number
        names = self._operation_names()
        return View(
            box=(float(box[0][item]), float(box[1][item]), float(box[2][item]), float(box[3][item])),
            ops=tuple((names[codes[op]], float(magnitudes[op])) for op in range(int(ops[item]), int(ops[item + 1]))),
        )

    def _view_arrays(self) -> tuple[Array, ...]:
        views = self._columns["views"]
        fields = views.values
        ops = fields.field("ops")
        plain = [fields.field(name).to_numpy() for name in _BOX]
        steps = [ops.values.field(name).to_numpy() for name in ("op", "magnitude")]
        return (views.offsets.to_numpy(), *plain, ops.offsets.to_numpy(), *steps)

    def _operation_names(self) -> list[str]:
        if not hasattr(self, "_names"):
            self._names: list[str] = json.loads(self._schema.field("views").metadata[b"ops"])
        return self._names

    def _offsets(self, column: str) -> Array:
        name = "offsets:" + column
        if name not in self._arrays:
            self._arrays[name] = (self._columns[column].offsets.to_numpy(),)
        return self._arrays[name][0]

    def embeds(self, side: str, teacher: str, place: int) -> Encoded:
        """A teacher's rows of one sample as stored: views of the mapped file, not copies."""
        column, scales = embeds_column(side, teacher), scales_column(side, teacher)
        if column not in self._arrays:
            self._arrays[column] = (self._numbers(column),)
            if self._dtype == "int8":
                self._arrays[scales] = (self._columns[scales].values.to_numpy(),)
        offsets = self._offsets(column)
        rows = slice(int(offsets[place]), int(offsets[place + 1]))
        kept = self._arrays[scales][0][rows] if self._dtype == "int8" else None
        return Encoded(self._arrays[column][0][rows], kept)

    def _numbers(self, column: str) -> Array:
        rows = self._columns[column].values  # fixed_size_list<number, D>
        numbers = np.frombuffer(rows.values.buffers()[1] or b"", NUMPY_DTYPES[self._dtype])
        width = rows.type.list_size
        return numbers[: len(rows) * width].reshape(-1, width)

    def row(self, place: int) -> Row:
        """A whole row, its embeddings as stored, for writing it again."""
        teachers = [name.partition(".")[2] for name in self._columns if name.startswith(embeds_column("image", ""))]
        return Row(
            key=self.cell("key", place),
            image=self.cell("image", place),
            image_sha256=self.cell("image_sha256", place),
            width=self.cell("width", place),
            height=self.cell("height", place),
            captions=[self.caption(place, number) for number in range(self.count("captions", place))],
            views=[self.view(place, number) for number in range(self.count("views", place))],
            image_embeds={name: self.embeds("image", name, place) for name in teachers},
            text_embeds={name: self.embeds("text", name, place) for name in teachers},
        )

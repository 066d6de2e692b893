"""`UnpairedTexts`: texts that belong to no image, with what each teacher said of them, in one Arrow file beside a set.

Captions say what stands in the user's photos; a classifier is asked for other words. A student that has read none of them
answers at random, so their embeddings are stored once, as those of captions are. Arrow IPC, which pyarrow opens: a column
`text` and per teacher a fixed-size list of float16; what it was made of stands in the schema's metadata.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.atomic import sha256_json, staged_file
from distill.core.errors import DistillError
from reinforced_data.store.manifest import Manifest

TEXT = "text"
_META = b"distill"


def identity(texts: list[str], weights: Mapping[str, str]) -> str:
    """The hash of what such a file is made of: the texts in their order, and teacher name -> hash of the weights."""
    return sha256_json({"texts": texts, "teachers": dict(sorted(weights.items()))})


def weights_of(manifest: Manifest) -> dict[str, str]:
    """Teacher name -> hash of the weights that labelled a set."""
    return {facts["name"]: facts["weights_sha256"] for facts in manifest.teachers}


def write_unpaired(file: Path, texts: list[str], embeds: Mapping[str, Array], weights: Mapping[str, str]) -> None:
    """Write the file, atomically.

    Args:
        file: to write.
        texts: N of them.
        embeds: teacher name -> [N, D], unit length.
        weights: teacher name -> hash of its weights.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {TEXT: pa.array(texts, pa.string())}
    for name, rows in embeds.items():
        flat = pa.array(np.ascontiguousarray(rows, np.float16).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    table = pa.table(columns)
    facts = {"identity": identity(texts, weights), "teachers": dict(weights)}
    schema = table.schema.with_metadata({_META: json.dumps(facts).encode()})
    with (
        staged_file(file, shared=True) as temporary,
        pa.OSFile(str(temporary), "wb") as stream,
        pa.ipc.new_file(stream, schema) as writer,
    ):
        writer.write_table(table.cast(schema))


class UnpairedTexts:
    """N texts and their embeddings, memory-mapped; other processes open the file anew.

    Raises DistillError where the file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        self.file = file
        try:
            table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            facts = json.loads(table.schema.metadata[_META])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DistillError(
                f"The texts {str(file)!r} cannot be read ({error}). Remove the file and go on: they are labelled anew."
            ) from error
        self.identity: str = facts["identity"]
        self.weights: dict[str, str] = facts["teachers"]
        self._table = table.combine_chunks()

    def __reduce__(self) -> tuple[Any, ...]:
        return UnpairedTexts, (self.file,)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @cached_property
    def texts(self) -> list[str]:
        """All N."""
        return [str(text) for text in self._table[TEXT].to_pylist()]

    def embeds(self, name: str, numbers: Array) -> Array:
        """[n, D] float32, unit length: what teacher `name` said of the texts with these numbers."""
        column = self._table[name].chunk(0)
        stored = column.flatten().to_numpy(zero_copy_only=True).reshape(len(self), column.type.list_size)
        rows = stored[numbers].astype(np.float32)
        unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
        return unit

"""The shard format: an Arrow IPC file that pyarrow, `datasets`, polars or any other reader opens without our code.

Columns, one row per sample:

    key                     string
    image                   binary, encoded as found
    image_sha256            string, hex, of `image`
    width, height           int32, pixels of the decoded upright image
    captions                list<string>
    caption_sources         list<string>: "real" or "synthetic:<captioner>", one per caption
    views                   list<struct<left, top, width, height: float32, ops: list<struct<op: int8, magnitude:
                            float32>>>>; the crop box in fractions of the image; `op` indexes the names in the field's
                            metadata
    image_embeds.<teacher>  list<fixed_size_list<number, D>>, one row per view
    text_embeds.<teacher>   list<fixed_size_list<number, D>>, one row per caption
    image_scales.<teacher>, text_scales.<teacher>
                            list<float32>, only where numbers are int8: row = numbers * scale
Numbers are float, halffloat, int8, or (bf16) uint16 that hold the upper halves of float32; the metadata's "dtype" says
which. Nothing is compressed, so that a memory-mapped reader touches the bytes of what it draws and no others.

The schema's metadata key "distill" holds JSON: format version, hash of the plan, and the rejected samples of the shard.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.atomic import staged_file
from reinforced_data.pixels.views import OPERATION_NAMES
from reinforced_data.sample import View
from reinforced_data.store.codec import Encoded, encode
from reinforced_data.store.manifest import SCHEMA_VERSION, Plan, Rejected
from reinforced_data.store.row import Row

IMAGE, TEXT = "image", "text"
SIDES = (IMAGE, TEXT)
ROWS_PER_BATCH, BATCH_BYTES = 64, 256 << 20  # of a record batch; its binary columns must stay below 2 GB
METADATA_KEY = b"distill"


def embeds_column(side: str, teacher: str) -> str:
    """The column of a teacher's embeddings; `side` is "image" or "text"."""
    return f"{side}_embeds.{teacher}"


def scales_column(side: str, teacher: str) -> str:
    """The column of their scales (int8 only)."""
    return f"{side}_scales.{teacher}"


def shard_schema(plan: Plan) -> Any:
    """The pyarrow schema of a shard, without its metadata."""
    import pyarrow as pa

    op = pa.struct([("op", pa.int8()), ("magnitude", pa.float32())])
    sides = [(name, pa.float32()) for name in ("left", "top", "width", "height")]
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("caption_sources", pa.list_(pa.string()), nullable=False),
        pa.field(
            "views",
            pa.list_(pa.struct([*sides, ("ops", pa.list_(op))])),
            nullable=False,
            metadata={"ops": json.dumps(OPERATION_NAMES)},
        ),
    ]
    number = {"fp32": pa.float32(), "fp16": pa.float16(), "bf16": pa.uint16(), "int8": pa.int8()}[plan.embed_dtype]
    for facts in plan.teachers:
        name, notes = facts["name"], {"dtype": plan.embed_dtype, "width": str(facts["width"])}
        for side in SIDES:
            rows = pa.list_(pa.list_(number, int(facts["width"])))
            fields.append(pa.field(embeds_column(side, name), rows, nullable=False, metadata=notes))
            if plan.embed_dtype == "int8":
                fields.append(pa.field(scales_column(side, name), pa.list_(pa.float32()), nullable=False))
    return pa.schema(fields)


def write_shard(path: Path, plan: Plan, plan_sha256: str, rows: Sequence[Row], rejected: Sequence[Rejected]) -> None:
    """Write one shard atomically. The bytes are a function of the arguments and of pyarrow's version alone."""
    import pyarrow as pa

    notes = {
        "schema_version": SCHEMA_VERSION,
        "plan_sha256": plan_sha256,
        "rejected": [item.model_dump() for item in rejected],
    }
    schema = shard_schema(plan).with_metadata({METADATA_KEY: json.dumps(notes, ensure_ascii=False).encode()})
    with (
        staged_file(path, shared=True) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for part in _parts(rows):
            writer.write_batch(_record_batch(part, plan, schema))


def _parts(rows: Sequence[Row]) -> list[Sequence[Row]]:
    parts: list[Sequence[Row]] = []
    start = size = 0
    for place, row in enumerate(rows):
        if place > start and (place - start >= ROWS_PER_BATCH or size + len(row.image) > BATCH_BYTES):
            parts.append(rows[start:place])
            start, size = place, 0
        size += len(row.image)
    return [*parts, rows[start:]] if start < len(rows) else parts


def _record_batch(rows: Sequence[Row], plan: Plan, schema: Any) -> Any:
    import pyarrow as pa

    plain: dict[str, Any] = {
        "key": [row.key for row in rows],
        "image": [row.image for row in rows],
        "image_sha256": [row.image_sha256 for row in rows],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "captions": [[caption.text for caption in row.captions] for row in rows],
        "caption_sources": [[caption.source for caption in row.captions] for row in rows],
        "views": [[_plain_view(view) for view in row.views] for row in rows],
    }
    columns = {name: pa.array(values, schema.field(name).type) for name, values in plain.items()}
    for facts in plan.teachers:
        name = facts["name"]
        for side in SIDES:
            cells = [_encoded(getattr(row, f"{side}_embeds")[name], plan.embed_dtype) for row in rows]
            column = embeds_column(side, name)
            columns[column] = _embeds_array([cell.values for cell in cells], schema.field(column).type)
            if plan.embed_dtype == "int8":
                column = scales_column(side, name)
                columns[column] = pa.array([cell.scales for cell in cells], schema.field(column).type)
    return pa.record_batch([columns[field.name] for field in schema], schema=schema)


def _plain_view(view: View) -> dict[str, Any]:
    left, top, width, height = view.box
    ops = [{"op": OPERATION_NAMES.index(name), "magnitude": magnitude} for name, magnitude in view.ops]
    return {"left": left, "top": top, "width": width, "height": height, "ops": ops}


def _encoded(embeds: Array | Encoded, dtype: str) -> Encoded:
    return embeds if isinstance(embeds, Encoded) else encode(embeds, dtype)


def _embeds_array(cells: list[Array], kind: Any) -> Any:
    """Cells of [rows, D] numbers as one array of list<fixed_size_list>, without a Python object per number."""
    import pyarrow as pa

    rows = kind.value_type
    flat = np.ascontiguousarray(np.concatenate(cells)).reshape(-1)
    numbers = pa.Array.from_buffers(rows.value_type, len(flat), [None, pa.py_buffer(flat)])
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.FixedSizeListArray.from_arrays(numbers, type=rows), type=kind)


@dataclass(frozen=True)
class ShardNotes:
    """The metadata of a shard and its counts: `samples`, and `captions` by source."""

    schema_version: int
    plan_sha256: str
    rejected: tuple[Rejected, ...]
    samples: int
    captions: dict[str, int]


def read_notes(path: Path) -> ShardNotes | None:
    """The notes of a shard; None when the file is not a whole shard of ours."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            notes = json.loads(reader.schema.metadata[METADATA_KEY])
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            counts: dict[str, int] = {}
            for batch in batches:
                for item in pc.value_counts(batch.column("caption_sources").flatten()).to_pylist():
                    counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
            return ShardNotes(
                schema_version=notes["schema_version"],
                plan_sha256=notes["plan_sha256"],
                rejected=tuple(Rejected(**item) for item in notes["rejected"]),
                samples=sum(batch.num_rows for batch in batches),
                captions=dict(sorted(counts.items())),
            )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def finished_shard(path: Path, plan_sha256: str) -> ShardNotes | None:
    """The notes of a shard that is whole and follows the plan of this hash; None when it must still be made."""
    notes = read_notes(path)
    return notes if notes is not None and notes.plan_sha256 == plan_sha256 else None

"""The shard format: Parquet that pyarrow, `datasets` or any other reader opens without our code.

Columns, one row per sample:

    key                     string
    image                   binary, encoded as found
    image_sha256            string, hex, of `image`
    width, height           int32, pixels of the decoded upright image
    captions                list<string>
    caption_sources         list<string>: "real" or "synthetic:<captioner>", one per caption
    views                   list<struct<left, top, width, height: double, ops: list<struct<op: string, magnitude:
    double>>>> image_embeds.<teacher>  binary: [views, D] numbers, row-major, little-endian, dtype and D in the field's
    metadata text_embeds.<teacher>   binary: [captions, D] likewise; np.frombuffer(cell, "<f2").reshape(-1, D)

The schema's metadata key "distill" holds JSON: format version, hash of the plan, and the rejected samples of the shard.
Row groups are small, since a training loader reads them in random order. Embeddings and images are not compressed
(they do not shrink), the rest is.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.atomic import staged_file
from reinforced_data.manifest import SCHEMA_VERSION, Plan, Rejected
from reinforced_data.sample import Caption, View
from reinforced_data.views import view_to_plain

if TYPE_CHECKING:
    import numpy as np

IMAGE_EMBEDS, TEXT_EMBEDS = "image_embeds.", "text_embeds."
ROWS_PER_GROUP = 16
NUMPY_DTYPES = {"fp16": "<f2", "fp32": "<f4"}
_METADATA_KEY = b"distill"
_COMPRESSED = (
    "captions.list.element",
    "caption_sources.list.element",
    *(f"views.list.element.{name}" for name in ("left", "top", "width", "height")),
    *(f"views.list.element.ops.list.element.{name}" for name in ("op", "magnitude")),
)


@dataclass
class Row:
    """One sample on its way to a shard: A views, C captions, per teacher [A, D] and [C, D] embeddings (float32)."""

    key: str
    image: bytes
    image_sha256: str
    width: int
    height: int
    captions: Sequence[Caption]
    views: Sequence[View]
    image_embeds: "dict[str, np.ndarray[Any, Any]]" = field(default_factory=dict)
    text_embeds: "dict[str, np.ndarray[Any, Any]]" = field(default_factory=dict)


def shard_name(index: int) -> str:
    """File name of the shard that holds source samples index * shard_size and following."""
    return f"shard-{index:05d}.parquet"


def shard_schema(plan: Plan) -> Any:
    """The pyarrow schema of a shard, without its metadata."""
    import pyarrow as pa

    op = pa.struct([("op", pa.string()), ("magnitude", pa.float64())])
    sides = [(name, pa.float64()) for name in ("left", "top", "width", "height")]
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("caption_sources", pa.list_(pa.string()), nullable=False),
        pa.field("views", pa.list_(pa.struct([*sides, ("ops", pa.list_(op))])), nullable=False),
    ]
    for facts in plan.teachers:
        notes = {"dtype": plan.embed_dtype, "width": str(facts["width"]), "order": "row-major, little-endian"}
        fields.append(pa.field(IMAGE_EMBEDS + facts["name"], pa.binary(), nullable=False, metadata=notes))
        fields.append(pa.field(TEXT_EMBEDS + facts["name"], pa.binary(), nullable=False, metadata=notes))
    return pa.schema(fields)


def write_shard(path: Path, plan: Plan, plan_sha256: str, rows: Sequence[Row], rejected: Sequence[Rejected]) -> None:
    """Write one shard atomically. The bytes are a function of the arguments and of pyarrow's version alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes = {
        "schema_version": SCHEMA_VERSION,
        "plan_sha256": plan_sha256,
        "rejected": [item.model_dump() for item in rejected],
    }
    schema = shard_schema(plan).with_metadata({_METADATA_KEY: json.dumps(notes, ensure_ascii=False).encode()})
    table = pa.Table.from_pylist([_plain(row, plan) for row in rows], schema=schema)
    with (
        staged_file(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression=dict.fromkeys(_COMPRESSED, "zstd"),
            use_dictionary=False,
            write_statistics=False,
        ) as writer,
    ):
        writer.write_table(table, row_group_size=ROWS_PER_GROUP)


def _plain(row: Row, plan: Plan) -> dict[str, Any]:
    import numpy as np

    dtype = NUMPY_DTYPES[plan.embed_dtype]
    plain: dict[str, Any] = {
        "key": row.key,
        "image": row.image,
        "image_sha256": row.image_sha256,
        "width": row.width,
        "height": row.height,
        "captions": [caption.text for caption in row.captions],
        "caption_sources": [caption.source for caption in row.captions],
        "views": [view_to_plain(view) for view in row.views],
    }
    for facts in plan.teachers:
        name = facts["name"]
        plain[IMAGE_EMBEDS + name] = np.ascontiguousarray(row.image_embeds[name], dtype).tobytes()
        plain[TEXT_EMBEDS + name] = np.ascontiguousarray(row.text_embeds[name], dtype).tobytes()
    return plain


@dataclass(frozen=True)
class ShardNotes:
    """What a shard says of itself."""

    schema_version: int
    plan_sha256: str
    rejected: tuple[Rejected, ...]
    samples: int
    captions: int


def read_notes(path: Path) -> ShardNotes | None:
    """The notes of a shard; None when the file is not a whole shard of ours."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as parquet:
            notes = json.loads(parquet.schema_arrow.metadata[_METADATA_KEY])
            captions = pc.sum(pc.list_value_length(parquet.read(columns=["captions"])["captions"])).as_py() or 0
            return ShardNotes(
                schema_version=notes["schema_version"],
                plan_sha256=notes["plan_sha256"],
                rejected=tuple(Rejected(**item) for item in notes["rejected"]),
                samples=parquet.metadata.num_rows,
                captions=captions,
            )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None

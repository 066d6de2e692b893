"""How embeddings are stored: fp32, fp16, bf16, or int8 with one float32 scale per row.

A row is one teacher's embedding of one view or caption. Unit-length rows lose at most, in cosine: fp32 nothing, fp16
1e-6, bf16 1e-5, int8 about 1e-4 for rows whose energy is spread (a row with one dominant component loses more, which
`reinforce --verify` measures on the set itself). Encoding is a function of the row alone, so that a set made in parts
has the bytes of one made at once.
"""

from dataclasses import dataclass

import numpy as np

from distill.core.arrays import Array
from reinforced_data.store.dtypes import NUMPY_DTYPES


@dataclass(frozen=True)
class Encoded:
    """Rows as stored: `values` [n, D] in the storage type, `scales` [n] float32 for int8, None for the others."""

    values: Array
    scales: Array | None

    def __len__(self) -> int:
        return len(self.values)


def encode(rows: Array, dtype: str) -> Encoded:
    """Rows [n, D] float32 in the storage type `dtype` (one of EMBED_DTYPES)."""
    rows = np.ascontiguousarray(rows, np.float32)
    if dtype == "int8":
        scales = (np.abs(rows).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
        safe = np.where(scales > 0, scales, np.float32(1))
        return Encoded(np.rint(rows / safe[:, None]).clip(-127, 127).astype(np.int8), scales)
    if dtype == "bf16":
        return Encoded(_to_bf16(rows), None)
    return Encoded(rows.astype(NUMPY_DTYPES[dtype]), None)


def decode(values: Array, scales: Array | None, dtype: str) -> Array:
    """Stored rows [n, D] (or one row [D]) as float32; `scales` [n] (or one number) for int8."""
    if dtype == "int8":
        assert scales is not None
        return values.astype(np.float32) * np.asarray(scales, np.float32)[..., None]
    if dtype == "bf16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32)


def join(parts: list[Encoded]) -> Encoded:
    """Several parts, all of one storage type, one below the other."""
    scales = None if parts[0].scales is None else np.concatenate([part.scales for part in parts])
    return Encoded(np.concatenate([part.values for part in parts]), scales)


def _to_bf16(rows: Array) -> Array:
    """Upper halves of float32 numbers, rounded to nearest, ties to even (as torch does)."""
    bits = rows.view(np.uint32)
    rounded: Array = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        "<u2"
    )
    return rounded

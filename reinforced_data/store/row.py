"""`Row`: one sample of a set, whole, on its way to a shard or out of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.core.arrays import Array
from reinforced_data.sample import Caption, View
from reinforced_data.store.codec import Encoded


@dataclass(frozen=True)
class Row:
    """A sample with A views, C captions and, per teacher, their embeddings.

    Attributes:
        image: encoded, as found. image_sha256: of those bytes, hex.
        width, height: of the decoded upright image, pixels.
        image_embeds, text_embeds: teacher name -> [A, D_t] and [C, D_t], float32, or `Encoded` in the plan's type.
    """

    key: str
    image: bytes
    image_sha256: str
    width: int
    height: int
    captions: Sequence[Caption]
    views: Sequence[View]
    image_embeds: Mapping[str, Array | Encoded]
    text_embeds: Mapping[str, Array | Encoded]

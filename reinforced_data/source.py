"""Where images and captions come from: `open_source("rendered")`, a folder, a table file, tars, a `datasets` name.

A source is a random-access list of `RawSample`, with a stable order and a fingerprint. It never decodes an image.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from distill.core.registry import Registry
from reinforced_data.sample import RawSample, ZeroShotTask

Split = Literal["train", "eval"]


class Source(Protocol):
    """A list of raw samples.

    Attributes:
        name: what the report calls it.
        licence: the terms of images and captions in a few words; "unknown" where nobody said.
        fingerprint: hex digest that changes when the content or order changes.
    """

    name: str
    licence: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> RawSample: ...

    def zero_shot(self) -> ZeroShotTask | None:
        """The classification task that comes with this split, if any."""
        ...


Opener = Callable[
    ..., Source
]  # opener(location: str, split: Split, limit: int | None[, caption_columns: dict]) -> Source
SOURCES: Registry[Opener] = Registry("data source", ("reinforced_data.sources",))

"""The types that flow through reinforced data. Importable without torch."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Caption:
    """A caption and where it came from: "real", or "synthetic:<captioner>"."""

    text: str
    source: str = "real"


@dataclass(frozen=True)
class RawSample:
    """One image as found (encoded bytes, undecoded) with its captions; `label` indexes the source's class names."""

    key: str
    image: bytes
    captions: tuple[Caption, ...]
    label: int | None = None


@dataclass(frozen=True)
class View:
    """One stored augmentation, relative to the image: crop box as fractions, then operations in order.

    Attributes:
        box: (left, top, width, height), each a fraction of the image's width or height.
        ops: (operation name, magnitude) pairs, see `reinforced_data.pixels.views`.
    """

    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    ops: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ReinforcedSample:
    """A stored sample: A views, C captions, and per teacher its [A, D_t] image and [C, D_t] text embeddings."""

    key: str
    image: bytes
    image_sha256: str
    captions: tuple[Caption, ...]
    views: tuple[View, ...]
    image_embeds: "dict[str, np.ndarray]" = field(default_factory=dict)
    text_embeds: "dict[str, np.ndarray]" = field(default_factory=dict)


@dataclass(frozen=True)
class ZeroShotTask:
    """A zero-shot classification set: encoded images, a label each, class names, prompt templates with one `{}`."""

    name: str
    images: tuple[bytes, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass
class Batch:
    """b pairs on this rank, ready for a student.

    Texts come in one or more streams of b: stream s of pair i is row s * b + i. The caption policy "sum" makes two, real
    captions and synthetic ones, whose losses are added; the others make one. b texts that belong to no image may follow.

    Attributes:
        images: [b, 3, H, W] uint8, RGB; they become floats in [0, 1] where the model lives, which is a quarter of the bytes
            to move.
        texts: streams x b captions, and b unpaired texts where there are any.
        teacher_image: teacher name -> [b, D_t] float32, unit length; empty when the data is not reinforced.
        teacher_text: teacher name -> [streams x b, D_t], the same for the captions (and the unpaired texts).
        keys: b sample keys, for messages and the exact-resume tests.
        image_ids: LongTensor [b], equal for pairs of equal images (by the bytes as found, whatever their keys).
        weights: [b] float32, at least 0: how much each pair counts (its scale does not matter), None = all the same.
        unpaired: how many of the texts, the last ones, belong to no image: b or 0.
        tokens: LongTensor [texts, L], the texts as the student reads them, where the loader was given a tokenizer.
    """

    images: "Tensor"
    texts: list[str]
    teacher_image: "dict[str, Tensor]"
    teacher_text: "dict[str, Tensor]"
    keys: list[str]
    image_ids: "Tensor"
    weights: "Tensor | None" = None
    unpaired: int = 0
    tokens: "Tensor | None" = None

    def pin_memory(self) -> "Batch":
        """The same with its tensors in pinned memory, from which copies to CUDA need no wait; a DataLoader's thread calls it."""
        return replace(
            self,
            images=self.images.pin_memory(),
            teacher_image={name: value.pin_memory() for name, value in self.teacher_image.items()},
            teacher_text={name: value.pin_memory() for name, value in self.teacher_text.items()},
            image_ids=self.image_ids.pin_memory(),
            weights=None if self.weights is None else self.weights.pin_memory(),
            tokens=None if self.tokens is None else self.tokens.pin_memory(),
        )

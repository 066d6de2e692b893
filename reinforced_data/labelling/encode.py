"""Asking models in batches: views and captions through teachers, whole images through captioners. Nothing is stored."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError
from reinforced_data.sample import Caption
from reinforced_data.sources.parts.listing import clean_captions
from reinforced_data.store.dtypes import TeacherPrecision
from teachers.captioner import Captioner
from teachers.captioners.parts.text import clean_caption, whole_sentences
from teachers.teacher import Teacher

CAPTION_BATCH = 16  # images per call of a captioner; whole images wait for it in memory


class ImageEncoder:
    """Feeds one teacher full batches of views, in order; only the last batch of a shard may be smaller."""

    def __init__(self, teacher: Teacher, batch_size: int, precision: TeacherPrecision = "no") -> None:
        self.teacher, self.precision = teacher, precision
        self._batch_size = batch_size
        self._pending: list[Array] = []
        self._done: list[Array] = []
        self.image_size = teacher.spec.image_size

    def add(self, views: Sequence[Array]) -> None:
        """A sample's rendered views, [S, S, 3] uint8 each."""
        self._pending += views
        while len(self._pending) >= self._batch_size:
            self._encode(self._pending[: self._batch_size])
            del self._pending[: self._batch_size]

    def finish(self) -> Array:
        """Embeddings of all views added, [views, D] float32."""
        if self._pending:
            self._encode(self._pending)
        empty = np.zeros((0, self.teacher.spec.width), np.float32)
        return np.concatenate([empty, *self._done])

    def _encode(self, views: Sequence[Array]) -> None:
        self._done.append(encode_images(self.teacher, views, self.precision))


@contextlib.contextmanager
def arithmetic(teacher: Teacher, precision: TeacherPrecision) -> Iterator[None]:
    """While the context lasts, matrix products of the teacher run in this type: float32 ("no"), or under autocast."""
    import torch

    if precision == "no":
        yield
        return
    with torch.autocast(torch.device(teacher.device).type, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]):
        yield


def encode_images(teacher: Teacher, views: Sequence[Array], precision: TeacherPrecision = "no") -> Array:
    """Rendered views ([S, S, 3] uint8 each) through a teacher: [len(views), D] float32."""
    import torch

    pixels = torch.from_numpy(np.stack(views)).to(teacher.device)  # as bytes: a quarter of floats
    with arithmetic(teacher, precision):
        embeds = teacher.encode_image(pixels.permute(0, 3, 1, 2).contiguous().float().div(255))
    return _checked(teacher, embeds, len(views), "images")


def encode_texts(teacher: Teacher, texts: Sequence[str], batch_size: int, precision: TeacherPrecision = "no") -> Array:
    """Captions through a teacher in batches: [len(texts), D] float32, in the order given.

    Captions of about one length go together, so that a text tower that reads no further than the longest of a batch reads
    little padding.
    """
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    result = np.zeros((len(texts), teacher.spec.width), np.float32)
    for start in range(0, len(texts), batch_size):
        places = order[start : start + batch_size]
        with arithmetic(teacher, precision):
            embeds = teacher.encode_text([texts[place] for place in places])
        result[places] = _checked(teacher, embeds, len(places), "captions")
    return result


def _checked(teacher: Teacher, embeds: Any, count: int, noun: str) -> Array:
    if tuple(embeds.shape) != (count, teacher.spec.width):
        raise DistillError(
            f"Teacher {teacher.spec.name!r} gave embeddings of shape {list(embeds.shape)} for {count} {noun}; its spec "
            f"says width {teacher.spec.width}. Mend the spec's width, or give the weights that belong to it."
        )
    array: Array = embeds.detach().cpu().float().numpy()
    return array


class CaptionAsker:
    """Feeds one captioner images in batches and keeps what it says, tagged "synthetic:<name>", by sample."""

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self._waiting: list[tuple[int, Array, int]] = []
        self._said: dict[int, list[Caption]] = {}

    def ask(self, index: int, image: Array, seed: int) -> None:
        """Have `image` ([H, W, 3] uint8) of sample `index` captioned, now or with the images that follow."""
        self._waiting.append((index, image, seed))
        if len(self._waiting) >= CAPTION_BATCH:
            self._caption()

    def finish(self) -> dict[int, list[Caption]]:
        """Captions by sample index, of all that were asked for."""
        if self._waiting:
            self._caption()
        return self._said

    def _caption(self) -> None:
        waiting, self._waiting = self._waiting, []
        name = self.captioner.spec.name
        answers = self.captioner.caption([image for _, image, _ in waiting], [seed for _, _, seed in waiting])
        if len(answers) != len(waiting):
            raise DistillError(
                f"Captioner {name!r} gave {len(answers)} answers for {len(waiting)} images. It must give one list of "
                "captions per image, in order."
            )
        for (index, _, _), texts in zip(waiting, answers, strict=True):
            clean = clean_captions([whole_sentences(clean_caption(text)) for text in texts])
            self._said[index] = [
                Caption(text, f"synthetic:{name}") for text in clean[: self.captioner.settings.captions]
            ]

"""Asking models in batches: views and captions through teachers, whole images through captioners. Nothing is stored."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DeviceMemoryError, DistillError
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
        self._read = _ReadLater(teacher)
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
        return self._read.all()

    def _encode(self, views: Sequence[Array]) -> None:
        self._read.add(_ask_images(self.teacher, views, self.precision))


class _ReadLater:
    """What a teacher said, batch by batch; a batch is fetched when the next one is under way.

    So that a GPU has work while the batch before comes back and the one after is stacked or tokenised.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._width, self._name = teacher.spec.width, teacher.spec.name
        self._last: Any = None
        self._done: list[Array] = []

    def add(self, embeds: Any) -> None:
        """[b, D], on whatever device."""
        last, self._last = self._last, embeds
        self._fetch(last)

    def all(self) -> Array:
        """Everything that was added, [n, D] float32."""
        self._fetch(self._last)
        self._last = None
        return np.concatenate([np.zeros((0, self._width), np.float32), *self._done])

    def _fetch(self, embeds: Any) -> None:
        if embeds is not None:
            with failing_by_name(
                "Teacher", self._name, "what it was asked before"
            ):  # a device says late what went wrong
                self._done.append(embeds.detach().cpu().float().numpy())


@contextlib.contextmanager
def failing_by_name(kind: str, name: str, asked: str) -> Iterator[None]:
    """Raise DistillError, which says whose fault it was, for what a model raises inside; DeviceMemoryError where it did not fit.

    Args:
        kind, name: of the model: "Teacher", "dfn-vitl14".
        asked: what about, as "128 images".
    """
    import torch

    try:
        yield
    except DistillError:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, torch.OutOfMemoryError):
            raise DeviceMemoryError(
                f"{kind} {name!r} does not fit the device with {asked} ({said}). Free its memory and call again with --resume, "
                "which keeps finished shards; or begin anew with a lower reinforce.batch_size."
            ) from error
        raise DistillError(
            f"{kind} {name!r} failed on {asked} ({type(error).__name__}: {said}). Finished shards are kept: when it is mended, "
            "call again with --resume."
        ) from error


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
    read = _ReadLater(teacher)
    read.add(_ask_images(teacher, views, precision))
    return read.all()


def encode_texts(teacher: Teacher, texts: Sequence[str], batch_size: int, precision: TeacherPrecision = "no") -> Array:
    """Captions through a teacher in batches: [len(texts), D] float32, in the order given.

    Captions of about one length go together, so that a text tower that reads no further than the longest of a batch reads
    little padding.
    """
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    read = _ReadLater(teacher)
    for start in range(0, len(texts), batch_size):
        places = order[start : start + batch_size]
        with failing_by_name("Teacher", teacher.spec.name, f"{len(places)} captions"), arithmetic(teacher, precision):
            embeds = teacher.encode_text([texts[place] for place in places])
        read.add(_of_right_shape(teacher, embeds, len(places), "captions"))
    result = np.empty((len(texts), teacher.spec.width), np.float32)
    result[order] = read.all()
    return result


def _ask_images(teacher: Teacher, views: Sequence[Array], precision: TeacherPrecision) -> Any:
    """Rendered views through a teacher: [len(views), D], on its device, where the work may still be going on."""
    import torch

    gpu = torch.device(teacher.device).type == "cuda"
    # As bytes, a quarter of floats; pinned, so that this thread need not wait for the copy.
    pixels = torch.empty((len(views), *views[0].shape), dtype=torch.uint8, pin_memory=gpu)
    np.stack(views, out=pixels.numpy())
    pixels = pixels.to(teacher.device, non_blocking=gpu)
    with failing_by_name("Teacher", teacher.spec.name, f"{len(views)} images"), arithmetic(teacher, precision):
        embeds = teacher.encode_image(pixels.permute(0, 3, 1, 2).contiguous().float().div(255))
    return _of_right_shape(teacher, embeds, len(views), "images")


def _of_right_shape(teacher: Teacher, embeds: Any, count: int, noun: str) -> Any:
    if tuple(embeds.shape) != (count, teacher.spec.width):
        raise DistillError(
            f"Teacher {teacher.spec.name!r} gave embeddings of shape {list(embeds.shape)} for {count} {noun}; its spec "
            f"says width {teacher.spec.width}. Mend the spec's width, or give the weights that belong to it."
        )
    return embeds


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
        with failing_by_name("Captioner", name, f"{len(waiting)} images"):
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

"""One shard's work: fetch, decode and draw views in threads, ask every teacher, keep what came out whole.

Nothing here depends on what was done before: the rows of a shard are a function of its sample indices and the plan, and
teacher batches never cross a shard's border, so a resumed run repeats a lost shard to the byte. Writing is not done
here.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError
from reinforced_data.decode import BadImageError, decode_rgb
from reinforced_data.manifest import Plan, Rejected
from reinforced_data.sample import RawSample
from reinforced_data.source import Source
from reinforced_data.store import Row
from reinforced_data.views import draw_view, render_view
from teachers.teacher import Teacher

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_VIEW_STREAM = 1  # separates the random numbers of views from those of other uses of the same seed


@dataclass
class _Prepared:
    row: Row
    pixels: "dict[int, list[Array]]"  # image size -> A arrays [S, S, 3] uint8


def view_rng(seed: int, index: int) -> "np.random.Generator":
    """The random numbers for the views of source sample `index`."""
    import numpy as np

    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _VIEW_STREAM, index))))


def label_shard(
    source: Source,
    indices: Sequence[int],
    teachers: Sequence[Teacher],
    plan: Plan,
    on_sample: Callable[[], object],
) -> tuple[list[Row], list[Rejected]]:
    """Rows and rejected samples of `source[indices]`, both in source order. `on_sample` is called once per sample.

    Raises DistillError when a teacher's output has the wrong shape.
    """
    rejected: dict[int, Rejected] = {}
    kept: list[tuple[int, Row]] = []
    encoders = [_ImageEncoder(teacher, plan.batch_size) for teacher in teachers]
    for index, item in zip(indices, _prepared(source, indices, teachers, plan), strict=True):
        if isinstance(item, Rejected):
            rejected[index] = item
        else:
            kept.append((index, item.row))
            for encoder in encoders:
                encoder.add(item.pixels[encoder.image_size])
        on_sample()
    rows = [row for _, row in kept]
    for teacher, encoder in zip(teachers, encoders, strict=True):
        name, width = teacher.spec.name, teacher.spec.width
        images = encoder.finish().reshape(len(rows), plan.views_per_image, width)
        texts = _encode_texts(teacher, rows, plan.batch_size)
        for row, embeds in zip(rows, images, strict=True):
            row.image_embeds[name] = embeds
            row.text_embeds[name] = texts([caption.text for caption in row.captions])
    whole = []
    for index, row in kept:
        reason = _not_finite(row)
        if reason:
            rejected[index] = Rejected(key=row.key, reason=reason)
        else:
            whole.append(row)
    return whole, [rejected[index] for index in sorted(rejected)]


def _prepared(
    source: Source, indices: Sequence[int], teachers: Sequence[Teacher], plan: Plan
) -> "Iterator[_Prepared | Rejected]":
    """Samples decoded and rendered in threads (Pillow lets go of the interpreter), a bounded number ahead, in order."""
    sizes = sorted({teacher.spec.image_size for teacher in teachers})
    workers = min(8, os.cpu_count() or 1)
    ahead = workers * 4
    waiting: deque[Future[_Prepared | Rejected]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for index in indices:
                try:
                    raw = source[index]  # in this thread: sources need not be safe in threads
                    waiting.append(pool.submit(_prepare, raw, index, sizes, plan))
                except BadImageError as error:
                    future: Future[_Prepared | Rejected] = Future()
                    future.set_result(Rejected(key=error.key, reason=error.reason))
                    waiting.append(future)
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _prepare(raw: RawSample, index: int, sizes: list[int], plan: Plan) -> "_Prepared | Rejected":
    if not raw.captions:
        return Rejected(key=raw.key, reason="no caption")
    try:
        image = decode_rgb(raw.image, raw.key)
    except BadImageError as error:
        return Rejected(key=error.key, reason=error.reason)
    rng = view_rng(plan.seed, index)
    views = [draw_view(plan.view_preset, image.width, image.height, rng) for _ in range(plan.views_per_image)]
    row = Row(
        key=raw.key,
        image=raw.image,
        image_sha256=hashlib.sha256(raw.image).hexdigest(),
        width=image.width,
        height=image.height,
        captions=raw.captions,
        views=views,
    )
    return _Prepared(row, {size: [render_view(image, view, size) for view in views] for size in sizes})


class _ImageEncoder:
    """Feeds one teacher full batches of views, in order; only the last batch of a shard may be smaller."""

    def __init__(self, teacher: Teacher, batch_size: int) -> None:
        self._teacher = teacher
        self._batch_size = batch_size
        self._pending: list[Array] = []
        self._done: list[Array] = []
        self.image_size = teacher.spec.image_size

    def add(self, views: "list[Array]") -> None:
        """A sample's rendered views, [S, S, 3] uint8 each."""
        self._pending += views
        while len(self._pending) >= self._batch_size:
            self._encode(self._pending[: self._batch_size])
            del self._pending[: self._batch_size]

    def finish(self) -> "Array":
        """Embeddings of all views added, [views, D] float32."""
        import numpy as np

        if self._pending:
            self._encode(self._pending)
        empty = np.zeros((0, self._teacher.spec.width), np.float32)
        return np.concatenate([empty, *self._done])

    def _encode(self, views: "list[Array]") -> None:
        self._done.append(encode_images(self._teacher, views))


def encode_images(teacher: Teacher, views: "Sequence[Array]") -> "Array":
    """Rendered views ([S, S, 3] uint8 each) through a teacher: [len(views), D] float32."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous().float().div(255)
    return _checked(teacher, teacher.encode_image(pixels), len(views), "images")


def encode_texts(teacher: Teacher, texts: Sequence[str], batch_size: int) -> "Array":
    """Captions through a teacher in batches: [len(texts), D] float32."""
    import numpy as np

    batches = [list(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    empty = np.zeros((0, teacher.spec.width), np.float32)
    return np.concatenate(
        [empty, *(_checked(teacher, teacher.encode_text(batch), len(batch), "captions") for batch in batches)]
    )


def _checked(teacher: Teacher, embeds: Any, count: int, noun: str) -> "Array":
    if tuple(embeds.shape) != (count, teacher.spec.width):
        raise DistillError(
            f"Teacher {teacher.spec.name!r} gave embeddings of shape {list(embeds.shape)} for {count} {noun}; its spec "
            f"says width {teacher.spec.width}. Mend the spec's width, or give the weights that belong to it."
        )
    array: Array = embeds.detach().cpu().float().numpy()
    return array


def _encode_texts(teacher: Teacher, rows: Sequence[Row], batch_size: int) -> "Callable[[list[str]], Array]":
    """Each distinct caption of the shard once; returns texts -> [C, D]."""
    texts = list(dict.fromkeys(caption.text for row in rows for caption in row.captions))
    embeds = encode_texts(teacher, texts, batch_size)
    place = {text: number for number, text in enumerate(texts)}
    return lambda wanted: embeds[[place[text] for text in wanted]]


def _not_finite(row: Row) -> str:
    import numpy as np

    for noun, embeds in (("image", row.image_embeds), ("caption", row.text_embeds)):
        for name, values in embeds.items():
            if not np.isfinite(values).all():
                return f"teacher {name} gave a {noun} embedding that is not finite"
    return ""

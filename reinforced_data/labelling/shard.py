"""One shard's work: fetch, decode and draw views in threads, ask captioners and teachers, keep what came out whole.

Nothing here depends on what was done before: the rows of a shard are a function of its sample indices and the plan, and
batches never cross a shard's border, so a resumed run repeats a lost shard to the byte. What an earlier, smaller set
knows already (`base`) is taken over and not computed again. Writing is not done here.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.core.streams import Stream, rng, sequence
from reinforced_data.labelling.encode import CaptionAsker, ImageEncoder, encode_texts
from reinforced_data.pixels.decode import BadImageError, decode_rgb
from reinforced_data.pixels.views import draw_view, render_view
from reinforced_data.sample import Caption, RawSample, View
from reinforced_data.sentences import SENTENCE, sub_sentences
from reinforced_data.source import Source
from reinforced_data.store.codec import Encoded, encode, join
from reinforced_data.store.manifest import Plan, Rejected
from reinforced_data.store.shard_file import Row
from teachers.captioner import Captioner
from teachers.teacher import Teacher

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Array = np.ndarray[Any, Any]


@dataclass
class _Prepared:
    row: Row
    known: Row | None  # the same sample in the set that is extended
    pixels: "dict[tuple[int, int], list[Array]]"  # (image size, views known before) -> rendered views, uint8
    image: "Array | None"  # upright, whole, [H, W, 3] uint8, for captioners


def caption_seed(seed: int, index: int) -> int:
    """The seed that captioners get for source sample `index`: 63 bits."""
    import numpy as np

    words = sequence(Stream.CAPTIONS, seed, index).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def label_shard(
    source: Source,
    indices: Sequence[int],
    teachers: Sequence[Teacher],
    plan: Plan,
    on_sample: Callable[[], object],
    *,
    captioners: Sequence[Captioner] = (),
    base: Mapping[str, Row] | None = None,
) -> tuple[list[Row], list[Rejected]]:
    """Rows and rejected samples of `source[indices]`, both in source order. `on_sample` is called once per sample.

    Args:
        base: rows of the shard that is extended, by key: their views, captions and embeddings come first and are kept.

    Raises DistillError when a teacher's or a captioner's output has the wrong shape.
    """
    rejected: dict[int, Rejected] = {}
    kept: list[tuple[int, Row, Row | None]] = []
    encoders = [ImageEncoder(teacher, plan.batch_size) for teacher in teachers]
    askers = [CaptionAsker(captioner) for captioner in captioners]
    work = _Work(source, teachers, captioners, plan, base or {})
    for index, item in zip(indices, work.prepared(indices), strict=True):
        if isinstance(item, Rejected):
            rejected[index] = item
        else:
            kept.append((index, item.row, item.known))
            for encoder in encoders:
                encoder.add(item.pixels[encoder.image_size, work.views_known(item.known, encoder.teacher)])
            for asker in askers:
                if not work.captioned(item.known, asker.captioner):
                    asker.ask(item.row, item.image, caption_seed(plan.seed, index))
        on_sample()
    for asker in askers:
        asker.finish()
    for _, row, known in kept:
        row.captions = _in_order(row.captions, captioners, plan.sentences, len(known.captions) if known else 0)
    images = [encoder.finish() for encoder in encoders]  # before rows are dropped: their views were counted
    _store_embeds(work, kept, teachers, images, plan)
    whole = []
    for index, row, _ in kept:
        reason = "" if row.captions else "no caption"
        reason = reason or _not_finite(row)
        if reason:
            rejected[index] = Rejected(key=row.key, reason=reason)
        else:
            whole.append(_encoded(row, plan))
    return whole, [rejected[index] for index in sorted(rejected)]


def _in_order(
    captions: Sequence[Caption], captioners: Sequence[Captioner], sentences: bool, known: int
) -> list[Caption]:
    """Captions in the plan's order, however the batches fell, each source's sentences after it.

    The first `known` were stored before, with their sentences, and stay in front.
    """
    ranks = {f"synthetic:{captioner.spec.name}": rank for rank, captioner in enumerate(captioners, 1)}
    new = list(captions[known:])
    if sentences:
        parts = [(caption, sub_sentences(caption.text)) for caption in new]
        new += [Caption(text, caption.source + SENTENCE) for caption, some in parts if len(some) > 1 for text in some]
    whole = [caption.source.removesuffix(SENTENCE) for caption in new]
    order = sorted(
        range(len(new)), key=lambda place: (ranks.get(whole[place], 0), new[place].source.endswith(SENTENCE))
    )
    return [*captions[:known], *(new[place] for place in order)]


class _Work:
    """What has to be done for a sample, given what an earlier set knows of it; and its preparation in threads."""

    def __init__(
        self,
        source: Source,
        teachers: Sequence[Teacher],
        captioners: Sequence[Captioner],
        plan: Plan,
        base: Mapping[str, Row],
    ) -> None:
        self.source, self.teachers, self.captioners, self.plan, self.base = source, teachers, captioners, plan, base

    def views_known(self, known: Row | None, teacher: Teacher) -> int:
        """How many of the sample's views the teacher has labelled before."""
        return len(known.image_embeds[teacher.spec.name]) if known and teacher.spec.name in known.image_embeds else 0

    def captioned(self, known: Row | None, captioner: Captioner) -> bool:
        """Whether the captioner has captioned the sample before."""
        tag = f"synthetic:{captioner.spec.name}"
        return known is not None and any(caption.source == tag for caption in known.captions)

    def prepared(self, indices: Sequence[int]) -> "Iterator[_Prepared | Rejected]":
        """Samples decoded and rendered in threads (Pillow lets go of the interpreter), a bounded number ahead, in
        order."""
        workers = min(8, os.cpu_count() or 1)
        ahead = workers * 4
        waiting: deque[Future[_Prepared | Rejected]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for index in indices:
                    try:
                        raw = self.source[index]  # in this thread: sources need not be safe in threads
                        waiting.append(pool.submit(self._prepare, raw, index))
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

    def _prepare(self, raw: RawSample, index: int) -> "_Prepared | Rejected":
        if not raw.captions and not self.captioners:
            return Rejected(key=raw.key, reason="no caption")
        known = self.base.get(raw.key)
        digest = hashlib.sha256(raw.image).hexdigest()
        if known and (known.image_sha256 != digest or list(known.captions[: len(raw.captions)]) != list(raw.captions)):
            known = None  # another sample of the same key
        needed = {(t.spec.image_size, self.views_known(known, t)) for t in self.teachers}
        captions_wanted = any(not self.captioned(known, captioner) for captioner in self.captioners)
        count, image = self.plan.views_per_image, None
        if known is None or captions_wanted or any(first < count for _, first in needed):
            try:
                image = decode_rgb(raw.image, raw.key)
            except BadImageError as error:
                return Rejected(key=error.key, reason=error.reason)
        width, height = (known.width, known.height) if image is None else image.size  # type: ignore[union-attr]
        draws = rng(Stream.VIEWS, self.plan.seed, index)
        views = [draw_view(self.plan.view_preset, width, height, draws) for _ in range(count)]
        if known is not None and list(known.views) != views[: len(known.views)]:
            return Rejected(key=raw.key, reason="its stored views are not those that its seed draws")
        row = Row(
            key=raw.key,
            image=raw.image,
            image_sha256=digest,
            width=width,
            height=height,
            captions=list(raw.captions if known is None else known.captions),
            views=views,
        )
        pixels = {(size, first): _render(image, views[first:], size) for size, first in needed}
        return _Prepared(row, known, pixels, _pixels(image) if captions_wanted and image is not None else None)


def _render(image: "Image | None", views: Sequence[View], size: int) -> "list[Array]":
    return [render_view(image, view, size) for view in views] if image is not None else []


def _pixels(image: "Image") -> "Array":
    import numpy as np

    return np.asarray(image)


def _store_embeds(
    work: _Work,
    kept: "list[tuple[int, Row, Row | None]]",
    teachers: Sequence[Teacher],
    images: "list[Array]",
    plan: Plan,
) -> None:
    """Give each row, per teacher, the newly computed float32 rows (`known` ones are joined by `_encoded`)."""
    for teacher, embeds in zip(teachers, images, strict=True):
        name, start = teacher.spec.name, 0
        for _, row, known in kept:
            end = start + plan.views_per_image - work.views_known(known, teacher)
            row.image_embeds[name] = embeds[start:end]
            start = end
        firsts = [len(known.captions) if known and name in known.text_embeds else 0 for _, _, known in kept]
        new = [[c.text for c in row.captions[first:]] for (_, row, _), first in zip(kept, firsts, strict=True)]
        texts = _encode_distinct(teacher, new, plan.batch_size)
        for (_, row, known), wanted in zip(kept, new, strict=True):
            row.text_embeds[name] = texts(wanted)
            row.known = known


def _encode_distinct(
    teacher: Teacher, captions: Sequence[Sequence[str]], batch_size: int
) -> "Callable[[Sequence[str]], Array]":
    """Each distinct caption of the shard once; returns texts -> [C, D]."""
    import numpy as np

    texts = list(dict.fromkeys(text for some in captions for text in some))
    embeds = encode_texts(teacher, texts, batch_size)
    place = {text: number for number, text in enumerate(texts)}
    return lambda wanted: embeds[np.array([place[text] for text in wanted], np.int64)]


def _encoded(row: Row, plan: Plan) -> Row:
    """The row with its embeddings in the storage type, what was known before in front."""
    known, row.known = row.known, None
    for side in ("image_embeds", "text_embeds"):
        stored: dict[str, Any] = getattr(row, side)
        before: dict[str, Any] = getattr(known, side) if known is not None else {}
        for name, rows in stored.items():
            new = encode(rows, plan.embed_dtype)
            old = before.get(name)
            stored[name] = join([old, new]) if isinstance(old, Encoded) else new
    return row


def _not_finite(row: Row) -> str:
    import numpy as np

    for noun, embeds in (("image", row.image_embeds), ("caption", row.text_embeds)):
        for name, values in embeds.items():
            if not np.isfinite(np.asarray(values)).all():
                return f"teacher {name} gave a {noun} embedding that is not finite"
    return ""

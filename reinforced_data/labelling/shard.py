"""`label_shard`: the rows of one shard. Captioners and teachers are asked about its samples, and their answers joined.

The rows are a function of the shard's sample indices and the plan: batches never cross a shard's border, and random
numbers are drawn per sample, so that a shard that was lost is made again to the byte, by whichever process. What an
earlier, smaller set holds of a sample is taken over, not computed again. Decoding and drawing views is the business of
`preparation`, asking in batches that of `encode`; nothing is written here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill.core.arrays import Array
from distill.core.streams import Stream, sequence
from reinforced_data.labelling.encode import CaptionAsker, ImageEncoder, encode_texts
from reinforced_data.labelling.preparation.prepare import Item, Prepared
from reinforced_data.sample import Caption
from reinforced_data.sentences import SENTENCE, sub_sentences
from reinforced_data.store.codec import Encoded, encode, join
from reinforced_data.store.manifest import Plan, Rejected
from reinforced_data.store.row import Row
from teachers.captioner import Captioner
from teachers.teacher import Teacher


@dataclass(frozen=True)
class _Labels:
    """What one teacher says of one sample beyond what is known: rows of its new views and captions, [n, D] float32."""

    image: Array
    text: Array


def caption_seed(seed: int, index: int) -> int:
    """The seed that captioners get for source sample `index`: 63 bits."""
    words = sequence(Stream.CAPTIONS, seed, index).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def label_shard(
    samples: Iterable[tuple[int, Prepared | Rejected]],
    teachers: Sequence[Teacher],
    plan: Plan,
    on_sample: Callable[[], object],
    *,
    captioners: Sequence[Captioner] = (),
) -> tuple[list[Row], list[Rejected]]:
    """Rows and rejected samples of one shard, both in source order.

    Args:
        samples: all of the shard, with their numbers in the source, in its order.
        on_sample: called once per sample, when it has been given to the models.

    Raises DistillError when a teacher's or a captioner's output has the wrong shape.
    """
    rejected: dict[int, Rejected] = {}
    items: list[Item] = []
    encoders = [ImageEncoder(teacher, plan.batch_size, plan.teacher_precision) for teacher in teachers]
    askers = [CaptionAsker(captioner) for captioner in captioners]
    for index, prepared in samples:
        if isinstance(prepared, Rejected):
            rejected[index] = prepared
        else:
            item = prepared.item
            items.append(item)
            for encoder in encoders:
                known = item.views_known(encoder.teacher.spec.name)
                encoder.add(prepared.views[encoder.image_size, known])
            for asker in askers:
                if prepared.image is not None and not item.captioned_by(asker.captioner.spec.name):
                    asker.ask(index, prepared.image, caption_seed(plan.seed, index))
        on_sample()
    answers = [asker.finish() for asker in askers]
    captions = [_captions(item, answers, captioners, plan.sentences) for item in items]
    labels = {encoder.teacher.spec.name: _labels(encoder, items, captions, plan.batch_size) for encoder in encoders}
    rows = []
    for place, item in enumerate(items):
        of_item = {name: labels_of_all[place] for name, labels_of_all in labels.items()}
        reason = _unusable(captions[place], of_item)
        if reason:
            rejected[item.index] = Rejected(key=item.raw.key, reason=reason)
        else:
            rows.append(_row(item, captions[place], of_item, plan.embed_dtype))
    return rows, [rejected[index] for index in sorted(rejected)]


def _captions(
    item: Item, answers: Sequence[Mapping[int, Sequence[Caption]]], captioners: Sequence[Captioner], sentences: bool
) -> list[Caption]:
    """All captions of a sample: those that are stored already, then the new ones in the plan's order.

    That order is the data's own captions, then each captioner's, and after the captions of one source their sentences,
    where sentences are stored. It is the same whether a captioner was there from the beginning or came by --extend.
    """
    stored = list(item.known.captions) if item.known else []  # with their sentences
    new = [] if item.known else list(item.raw.captions)
    new += [caption for answer in answers for caption in answer.get(item.index, ())]
    if sentences:
        parts = [(caption, sub_sentences(caption.text)) for caption in new]
        new += [Caption(text, caption.source + SENTENCE) for caption, some in parts if len(some) > 1 for text in some]
    ranks = {f"synthetic:{captioner.spec.name}": rank for rank, captioner in enumerate(captioners, 1)}

    def order(caption: Caption) -> tuple[int, bool]:
        return ranks.get(caption.source.removesuffix(SENTENCE), 0), caption.source.endswith(SENTENCE)

    return [*stored, *sorted(new, key=order)]


def _labels(
    encoder: ImageEncoder, items: Sequence[Item], captions: Sequence[Sequence[Caption]], batch_size: int
) -> list[_Labels]:
    """The new labels of one teacher for every item: its views were given to `encoder`, its captions are asked here.

    A caption that several samples of the shard share is asked once.
    """
    teacher, views = encoder.teacher, encoder.finish()
    name, labels, start = teacher.spec.name, [], 0
    texts = [
        [caption.text for caption in some[item.captions_known(name) :]]
        for item, some in zip(items, captions, strict=True)
    ]
    distinct = list(dict.fromkeys(text for some in texts for text in some))
    place = {text: number for number, text in enumerate(distinct)}
    embeds = encode_texts(teacher, distinct, batch_size, encoder.precision)
    for item, some in zip(items, texts, strict=True):
        end = start + len(item.views) - item.views_known(name)
        labels.append(_Labels(views[start:end], embeds[np.array([place[text] for text in some], np.int64)]))
        start = end
    return labels


def _unusable(captions: Sequence[Caption], labels: Mapping[str, _Labels]) -> str:
    """Why a sample cannot be stored; "" when it can."""
    if not captions:
        return "no caption"
    for noun, side in (("image", "image"), ("caption", "text")):
        for name, of_teacher in labels.items():
            if not np.isfinite(getattr(of_teacher, side)).all():
                return f"teacher {name} gave a {noun} embedding that is not finite"
    return ""


def _row(item: Item, captions: Sequence[Caption], labels: Mapping[str, _Labels], dtype: str) -> Row:
    """The row as it is stored: embeddings in the storage type, those that were known first."""
    known_image = item.known.image_embeds if item.known else {}
    known_text = item.known.text_embeds if item.known else {}
    return Row(
        key=item.raw.key,
        image=item.raw.image,
        image_sha256=item.image_sha256,
        width=item.size[0],
        height=item.size[1],
        captions=captions,
        views=item.views,
        image_embeds={name: _joined(known_image.get(name), new.image, dtype) for name, new in labels.items()},
        text_embeds={name: _joined(known_text.get(name), new.text, dtype) for name, new in labels.items()},
    )


def _joined(known: Array | Encoded | None, new: Array, dtype: str) -> Encoded:
    encoded = encode(new, dtype)
    return join([known, encoded]) if isinstance(known, Encoded) else encoded

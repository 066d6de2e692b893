"""The check, before anything is labelled, that a plan's arithmetic keeps the gate of `verify`.

Teachers run in float32 unless a plan says "bf16" or "fp16" (`encode.arithmetic`). `verify` always asks in float32, so that what
it measures is what rounding cost, of the arithmetic and of the storage together; the same is asked here of a few samples.
"""

from collections.abc import Sequence

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import UsageError
from distill.core.streams import Stream, rng
from reinforced_data.labelling.encode import encode_images, encode_texts
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.pixels.picture import Picture
from reinforced_data.pixels.views import draw_view
from reinforced_data.sample import View
from reinforced_data.source import Source
from reinforced_data.store.codec import decode, encode
from reinforced_data.store.dtypes import MIN_COSINE
from reinforced_data.store.manifest import Plan
from teachers.teacher import Teacher

TRIED = 16  # samples


def refuse_coarse(source: Source, teachers: Sequence[Teacher], plan: Plan) -> None:
    """Raise UsageError where a plan's arithmetic moves an embedding, as it would be stored, below the gate of `verify`.

    It is tried on a view and a caption of each of the first samples that can be used. A plan in float32 is not tried.
    """
    if plan.teacher_precision == "no":
        return
    pictures, texts = _first_usable(source, plan)
    for teacher in teachers if texts else ():
        views = [picture.render(view, teacher.spec.image_size) for picture, view in pictures]
        exact = encode_images(teacher, views), encode_texts(teacher, texts, len(texts))
        rough = (
            encode_images(teacher, views, plan.teacher_precision),
            encode_texts(teacher, texts, len(texts), plan.teacher_precision),
        )
        for noun, wanted, got in zip(("view", "caption"), exact, rough, strict=True):
            _refuse(teacher, plan, noun, wanted, got)


def _first_usable(source: Source, plan: Plan) -> tuple[list[tuple[Picture, View]], list[str]]:
    pictures: list[tuple[Picture, View]] = []
    texts: list[str] = []
    for index in range(len(source)):
        if len(texts) == TRIED:
            break
        try:
            raw = source[index]
            picture = Picture(raw.image, raw.key, plan.rendering)
            view = draw_view(plan.view_preset, *picture.size, rng(Stream.VIEWS, plan.seed, index), plan.rendering)
        except BadImageError:
            continue
        if raw.captions:
            pictures.append((picture, view))
            texts.append(raw.captions[0].text)
    return pictures, texts


def _refuse(teacher: Teacher, plan: Plan, noun: str, wanted: Array, got: Array) -> None:
    gate, precision = MIN_COSINE[plan.embed_dtype], plan.teacher_precision
    stored = encode(got, plan.embed_dtype)
    read = decode(stored.values, stored.scales, plan.embed_dtype).astype(np.float64)
    exact = wanted.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        cosines = (read * exact).sum(1) / np.maximum(
            np.linalg.norm(read, axis=1) * np.linalg.norm(exact, axis=1), 1e-300
        )
    worst = float(np.nan_to_num(cosines, nan=-1.0, posinf=-1.0, neginf=-1.0).min())
    if worst < gate:
        finer = "no" if precision == "fp16" else "fp16, or no"
        raise UsageError(
            f"reinforce.teacher_precision = {precision!r} moves a {noun} of teacher {teacher.spec.name!r} to a cosine of "
            f"{worst:.6f} with what float32 gives, and embeddings stored as {plan.embed_dtype} must reach {gate}. Say "
            f"--set reinforce.teacher_precision={finer} (float32)."
        )

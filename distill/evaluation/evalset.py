"""The images, captions and classes that models are judged on, and the embedding of them by any model."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.core.arrays import Array
from distill.core.clip.model import count_parameters
from distill.core.errors import DistillError, UsageError
from distill.core.machine import usable_cores
from distill.evaluation.examples import example_searches
from distill.evaluation.metrics import (
    class_embeddings,
    per_class,
    retrieval_chance,
    retrieval_figures,
    retrieval_ranks,
    zero_shot_figures,
    zero_shot_ranks,
)
from distill.evaluation.verdict import hits_as_text
from reinforced_data.pixels.decode import BadImageError, decode_rgb
from reinforced_data.sample import RawSample, ZeroShotTask
from reinforced_data.source import Source
from reinforced_data.sources.parts.listing import LABEL_CAPTION_SOURCE

if TYPE_CHECKING:
    from PIL.Image import Image

    from students.student import Student
    from teachers.teacher import Teacher

MOST_THREADS = 8  # that decode images


@dataclass(frozen=True)
class Embedder:
    """A model as evaluation sees it.

    Attributes:
        name: what tables call it.
        image_size: pixels, square, that `images` wants.
        resize_mode, interpolation: how a whole image becomes that square, see `pixels`.
        images: float32 [b, 3, S, S] in [0, 1] -> [b, D] unit length.
        texts: b captions -> [b, D] unit length.
        parameters: image tower, text blocks, token embedding; None where the model is not one open_clip module.
    """

    name: str
    image_size: int
    images: Callable[[Array], Array]
    texts: Callable[[list[str]], Array]
    parameters: dict[str, int] | None = None
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class EvalSet:
    """Retrieval pairs, an optional zero-shot task, and what was left out.

    Attributes:
        name, fingerprint: of the source, so that only equal ones are compared.
        samples: decodable samples with at least one caption (possibly none: then there is no retrieval); equal images are
            one sample with the captions of all.
        task: the zero-shot task or None.
        rejected: key -> reason.
    """

    name: str
    fingerprint: str
    samples: list[RawSample]
    task: ZeroShotTask | None
    rejected: dict[str, str]

    def image_hashes(self) -> set[str]:
        """Hex SHA-256 of every encoded image that a model is judged on."""
        images = [sample.image for sample in self.samples] + list(self.task.images if self.task else ())
        return {hashlib.sha256(image).hexdigest() for image in images}

    def retrieval_samples(self) -> list[RawSample]:
        """The samples with the captions that tell them apart: those made from a class name say nothing of one image."""
        told = []
        for sample in self.samples:
            captions = tuple(caption for caption in sample.captions if caption.source != LABEL_CAPTION_SOURCE)
            if captions:
                told.append(replace(sample, captions=captions))
        return told


def load_evalset(source: Source, zero_shot_source: Source | None = None) -> EvalSet:
    """The evaluation data in `source`: its captioned images for retrieval, its classes for zero-shot.

    Every image is decoded once here, so that a broken one is known before a model runs.

    Args:
        source: an evaluation split.
        zero_shot_source: where the classes come from instead; None = `source` itself, if it has any.

    Raises:
        UsageError: `zero_shot_source` has no class labels.
        DistillError: there is nothing to evaluate.
    """
    samples: dict[bytes, RawSample] = {}  # by what the image is
    rejected = {}
    for index in range(len(source)):
        try:
            sample = source[index]
            decode_rgb(sample.image, sample.key)
        except BadImageError as error:
            rejected[error.key] = error.reason
            continue
        if not sample.captions:
            rejected[sample.key] = "no caption"
            continue
        image = hashlib.sha256(sample.image).digest()
        first = samples.setdefault(image, sample)
        if first is not sample:
            samples[image] = replace(first, captions=tuple(dict.fromkeys((*first.captions, *sample.captions))))
    task = (zero_shot_source or source).zero_shot()
    if zero_shot_source is not None and task is None:
        raise UsageError(
            f"eval.zero_shot = {zero_shot_source.name!r} has no class labels. Give a set with labels: class-named folders, or "
            "Parquet with an image and a label column."
        )
    if len(samples) < 2 and task is None:
        raise DistillError(
            f"Nothing to evaluate in {source.name!r}: fewer than two readable images with captions ({len(rejected)} rejected), "
            "and no class labels. Give other data with --set eval.data=FOLDER."
        )
    return EvalSet(source.name, source.fingerprint, list(samples.values()), task, rejected)


def pixels(
    images: list[tuple[str, bytes]],
    size: int,
    resize_mode: str = "shortest",
    interpolation: str = "bicubic",
    resize_to: int | None = None,
) -> Array:
    """(key, encoded image) pairs -> float32 [n, 3, size, size] in [0, 1], as open_clip prepares images for a model.

    Args:
        resize_mode: "shortest" resizes the shorter side to `size` and crops the centre; "squash" resizes both sides, whatever
            the shape was; "longest" resizes the longer side and fills up with black.
        interpolation: "bicubic" or "bilinear".
        resize_to: with "shortest", what the shorter side is resized to instead of `size`.

    Raises UsageError for another resize mode.
    """
    result = np.empty((len(images), 3, size, size), np.float32)
    for row, (key, data) in enumerate(images):
        square = _square(decode_rgb(data, key), size, resize_mode, interpolation, resize_to or size)
        result[row] = np.asarray(square).transpose(2, 0, 1).astype(np.float32) / 255
    return result


def _square(image: "Image", size: int, resize_mode: str, interpolation: str, shorter: int) -> "Image":
    from PIL import Image as Pillow

    # As open_clip has it, whatever is not bilinear is bicubic.
    how = Pillow.Resampling.BILINEAR if interpolation == "bilinear" else Pillow.Resampling.BICUBIC
    if resize_mode == "squash":
        return image.resize((size, size), how)
    if resize_mode not in ("shortest", "longest"):
        raise UsageError(f"Unknown resize mode {resize_mode!r} of a model. Known: longest, shortest, squash.")
    # torchvision's Resize, which crops, cuts fractions of a pixel; timm's ResizeKeepRatio, which fills up, rounds.
    if resize_mode == "shortest":
        width, height = (int(shorter * side / min(image.size)) for side in image.size)
    else:
        width, height = (round(size * side / max(image.size)) for side in image.size)
    left, top = (_margin(side, size) for side in (width, height))
    resized = image.resize((max(1, width), max(1, height)), how)
    return resized.crop((left, top, left + size, top + size))  # beyond the image: black


def _margin(side: int, size: int) -> int:
    """Where the middle `size` pixels of `side` begin; below 0 where the side is shorter, and filled up."""
    return round((side - size) / 2) if side >= size else -((size - side) // 2)


def _embed_images(model: Embedder, images: list[tuple[str, bytes]], batch_size: int) -> Array:
    """[n, D]: while the model is busy with a batch, threads decode the next one (Pillow lets go of the interpreter)."""
    how = (model.image_size, model.resize_mode, model.interpolation)
    threads = min(MOST_THREADS, usable_cores())
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as ahead:

        def prepared(start: int) -> Array:
            batch = images[start : start + batch_size]
            share = max(1, -(-len(batch) // threads))
            parts = [batch[i : i + share] for i in range(0, len(batch), share)]
            return np.concatenate(list(pool.map(lambda part: pixels(part, *how), parts)))

        starts, rows = range(0, len(images), batch_size), []
        coming = ahead.submit(prepared, 0)
        for start in starts:
            ready = coming.result()
            if start + batch_size < len(images):
                coming = ahead.submit(prepared, start + batch_size)
            rows.append(model.images(ready))
    return np.concatenate(rows)


def _embed_texts(model: Embedder, texts: list[str], batch_size: int) -> Array:
    return np.concatenate([model.texts(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)])


def evaluate_model(model: Embedder, data: EvalSet, batch_size: int) -> dict[str, Any]:
    """The figures of one model.

    Args:
        model: what is judged.
        data: what it is judged on.
        batch_size: images, or captions, per forward.

    Returns:
        "model" (its name), "retrieval" and "zero_shot" with the figures of `distill.evaluation.metrics`, None where the
        data allows no such figure; "hits", which queries were found, see `distill.evaluation.verdict`; "examples", see
        `distill.evaluation.examples`.
    """
    result: dict[str, Any] = {"model": model.name, "retrieval": None, "zero_shot": None, "examples": [], "hits": {}}
    samples = data.retrieval_samples()
    if len(samples) >= 2:
        image = _embed_images(model, [(sample.key, sample.image) for sample in samples], batch_size)
        texts = [caption.text for sample in samples for caption in sample.captions]
        owner = np.repeat(np.arange(len(samples)), [len(sample.captions) for sample in samples])
        _, caption = np.unique(texts, return_inverse=True)
        text = _embed_texts(model, texts, batch_size)
        text_rank, image_rank = retrieval_ranks(image, text, owner, caption)
        result["retrieval"] = retrieval_figures(text_rank, image_rank, owner)
        result["retrieval"] |= retrieval_chance(owner, caption, len(samples))
        result["hits"]["t2i_r1"] = hits_as_text(text_rank < 1, owner)
        result["hits"]["i2t_r1"] = hits_as_text(image_rank < 1)
        result["examples"] = example_searches(image, text, owner, [sample.key for sample in samples], texts)
    if data.task is not None:
        task = data.task
        image = _embed_images(model, [(f"{task.name}-{i}", data) for i, data in enumerate(task.images)], batch_size)
        prompts = [template.format(name) for name in task.class_names for template in task.templates]
        text = _embed_texts(model, prompts, batch_size).reshape(len(task.class_names), len(task.templates), -1)
        labels = np.array(task.labels)
        rank = zero_shot_ranks(image, class_embeddings(text), labels)
        figures = zero_shot_figures(rank, len(task.class_names))
        result["hits"]["zero_shot_top1"] = hits_as_text(rank < 1)
        each = per_class(rank, labels, task.class_names)
        result["zero_shot"] = {"task": task.name, **figures, "per_class": each}
    return result


def student_embedder(student: "Student", name: str) -> Embedder:
    """A student as evaluation sees it, under `name`."""
    import torch

    @torch.inference_mode()
    def images(batch: Array) -> Array:
        return student.encode_image(torch.from_numpy(batch).to(student.device)).cpu().numpy()

    @torch.inference_mode()
    def texts(captions: list[str]) -> Array:
        return student.encode_text(student.tokenize(captions).to(student.device)).cpu().numpy()

    how = (student.spec.resize_mode, student.spec.interpolation)
    return Embedder(name, student.image_size, images, texts, count_parameters(student.clip), *how)


def teacher_embedder(teacher: "Teacher") -> Embedder:
    """A teacher as evaluation sees it, under its own name."""
    import torch

    return Embedder(
        teacher.spec.name,
        teacher.spec.image_size,
        lambda batch: teacher.encode_image(torch.from_numpy(batch)).cpu().numpy(),
        lambda captions: teacher.encode_text(captions).cpu().numpy(),
        teacher.parameters,
        teacher.resize_mode,
        teacher.interpolation,
    )

"""What a model says to photos: probabilities of labels or captions, and the photos that fit a sentence best.

Left out: loading models (`distill.stages.exporting.any_model`, `.files`), and judging them (`distill.evaluation.evalset`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import UsageError
from distill.core.progress import Progress, silent
from distill.evaluation.evalset import Embedder, pixels
from distill.evaluation.metrics import class_embeddings
from export.app.golden import probabilities
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES, walk

BATCH = 32


@dataclass(frozen=True)
class Scorer:
    """A model with how its cosines become probabilities.

    Attributes:
        model: embeds photos and texts.
        logit_scale: multiplies a cosine, already exponentiated.
        logit_bias: is added then; 0.0 for a softmax.
        kind: "softmax" over the texts, or "sigmoid" of each alone.
    """

    model: Embedder
    logit_scale: float
    logit_bias: float
    kind: str


@dataclass(frozen=True)
class Photos:
    """What was read of photos.

    Attributes:
        files: those that could be decoded, n.
        rows: [n, ...], what the model says to each.
        rejected: file -> why it could not be decoded.
    """

    files: list[str]
    rows: Array
    rejected: dict[str, str]


def photo_files(places: Sequence[str]) -> list[Path]:
    """The photos that are meant: files as they are named, and every picture below a folder, sorted; none twice.

    Raises UsageError for a place that is not there, and for folders without pictures.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            names = walk(path).images
            if not names:
                raise UsageError(
                    f"There are no pictures below {place!r}. Looked for files that end in {' '.join(IMAGE_SUFFIXES)}."
                )
            found |= dict.fromkeys(path / name for name in names)
        elif path.is_file():
            found[path] = None
        else:
            raise UsageError(f"There is no photo {place!r}. Name files, or a folder with photos.")
    return list(found)


def read_photos(
    files: Sequence[Path],
    answer: Callable[[Array], Array],
    size: int,
    resize_mode: str,
    interpolation: str,
    resize_to: int | None = None,
    *,
    progress: Progress = silent,
) -> Photos:
    """What a model says to photos, a batch at a time.

    Args:
        files: of pictures.
        answer: [b, 3, S, S] float32 in [0, 1] -> [b, ...].
        size, resize_mode, interpolation, resize_to: how a photo becomes S x S pixels, see `distill.evaluation.evalset.pixels`.

    Raises UsageError where none of them can be decoded.
    """
    read, parts, rejected = [], [], {}
    for start in range(0, len(files), BATCH):
        progress(start, len(files), f"{start} of {len(files)} photos")
        squares = []
        for file in files[start : start + BATCH]:
            try:
                squares.append(pixels([(str(file), file.read_bytes())], size, resize_mode, interpolation))
            except BadImageError as error:
                rejected[str(file)] = error.reason
            except OSError as error:
                rejected[str(file)] = error.strerror or str(error)
            else:
                read.append(str(file))
        if squares:
            parts.append(answer(np.concatenate(squares)))
    if not read:
        name, why = next(iter(rejected.items()))
        others = f" Nor can {len(rejected) - 1} more." if len(rejected) > 1 else ""
        raise UsageError(f"The photo {name!r} cannot be read: {why}.{others}")
    return Photos(read, np.concatenate(parts), rejected)


def text_embeddings(model: Embedder, labels: Sequence[str], templates: Sequence[str]) -> Array:
    """[k, D] of labels, unit length: each one's mean over the templates (with `{}` in them), as `class_embeddings` has it."""
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    rows = [model.texts(prompts[at : at + BATCH]) for at in range(0, len(prompts), BATCH)]
    return class_embeddings(np.concatenate(rows).reshape(len(labels), len(templates), -1))


def label_scores(scorer: Scorer, image: Array, text: Array) -> Array:
    """[n, k] probabilities of texts [k, D] for photos [n, D], as the model was trained to give them."""
    return probabilities(image, text, scorer.logit_scale, scorer.logit_bias, scorer.kind)


def best_labels(files: Sequence[str], scores: Array, labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    """A row per photo: its `top` most probable labels, the most probable first; equal ones in the order of `labels`.

    Args:
        scores: [n, k].
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        {
            "photo": file,
            "labels": [{"label": labels[i], "probability": round(float(row[i]), 6)} for i in places],
        }
        for file, row, places in zip(files, scores, order, strict=True)
    ]


def best_photos(files: Sequence[str], image: Array, sentence: Array, top: int) -> list[dict[str, Any]]:
    """The `top` photos whose embeddings [n, D] lie nearest to a sentence's [D]: a row each, the nearest first."""
    cosines = image @ sentence
    order = np.argsort(-cosines, kind="stable")[:top]
    return [{"photo": files[i], "cosine": round(float(cosines[i]), 6)} for i in order]

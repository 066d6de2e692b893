"""`verify`: ask the live teachers again about stored views and captions and report how far the store is from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import UsageError, nearest
from reinforced_data.ask import encode_images, encode_texts
from reinforced_data.read import ReinforcedData
from reinforced_data.views import render_view
from teachers.teacher import Teacher

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_VERIFY_STREAM = 4  # see label._VIEW_STREAM


def verify(path: Path, teachers: Sequence[Teacher], n: int, seed: int) -> dict[str, dict[str, float]]:
    """Replay one view and one caption of `n` samples (all, when there are fewer) through live teachers.

    Returns:
        Per teacher the worst and mean cosine between stored and live embeddings, "image_min", "image_mean", "text_min",
        "text_mean" (float64 arithmetic), and "samples".

    Raises:
        UsageError: a teacher is not in the set, or n < 1. DistillError: an image is not the one that was reinforced.
    """
    import numpy as np

    if n < 1:
        raise UsageError(f"Verifying {n} samples says nothing. Give at least 1.")
    data = ReinforcedData(path)
    for teacher in teachers:
        if teacher.spec.name not in data.teachers:
            raise UsageError(
                f"{str(path)!r} has no embeddings of {teacher.spec.name!r}. {nearest(teacher.spec.name, data.teachers)}"
            )
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _VERIFY_STREAM))))
    chosen = np.sort(rng.permutation(len(data))[:n])
    draws = [
        (int(i), int(rng.integers(len(data.text(i).views))), int(rng.integers(len(data.text(i).captions))))
        for i in map(int, chosen)
    ]
    return {teacher.spec.name: _compare(data, teacher, draws) for teacher in teachers}


def _compare(data: ReinforcedData, teacher: Teacher, draws: list[tuple[int, int, int]]) -> dict[str, float]:
    import numpy as np

    name, size, batch = teacher.spec.name, teacher.spec.image_size, data.manifest.batch_size
    image, text = [], []
    for start in range(0, len(draws), batch):
        part = draws[start : start + batch]
        views = [render_view(data.decoded(i), data.text(i).views[view], size) for i, view, _ in part]
        image.append(_cosines(encode_images(teacher, views), [data.image_embed(i, name, view) for i, view, _ in part]))
        texts = [data.text(i).captions[caption].text for i, _, caption in part]
        stored = [data.text_embed(i, name, caption) for i, _, caption in part]
        text.append(_cosines(encode_texts(teacher, texts, batch), stored))
    images, captions = np.concatenate(image), np.concatenate(text)
    return {
        "image_min": float(images.min()),
        "image_mean": float(images.mean()),
        "text_min": float(captions.min()),
        "text_mean": float(captions.mean()),
        "samples": len(draws),
    }


def _cosines(live: "Array", stored: "list[Array]") -> "Array":
    import numpy as np

    a, b = live.astype(np.float64), np.stack(stored).astype(np.float64)
    cosines: Array = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-300)
    return cosines

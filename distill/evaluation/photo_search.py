"""`PhotoSearch`: a sentence finds photos, by one or several models side by side. Left out: showing them (distill demo)."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.core.arrays import Array
from distill.core.progress import Progress, silent
from distill.evaluation.evalset import Embedder, pixels
from reinforced_data.pixels.decode import BadImageError, decode_rgb
from reinforced_data.source import Source

BATCH = 16
THUMBNAIL = 320  # pixels of the longer side


@dataclass(frozen=True)
class Hit:
    """A photo that was found: its index among the photos, and the cosine of its embedding to the sentence's."""

    photo: int
    cosine: float


class PhotoSearch:
    """Photos with their embeddings by each model.

    Attributes:
        models: the searched ones, in order.
        keys: of the photos that could be decoded.
        thumbnails: of these, JPEG.
        rejected: key -> why a photo could not be decoded.
        embeddings: per model, [photos, D], unit length.
    """

    def __init__(self, models: Sequence[Embedder], source: Source, *, progress: Progress = silent) -> None:
        """Embed every photo of a source. Raises ValueError where none can be decoded."""
        self.models = list(models)
        self.keys: list[str] = []
        self.thumbnails: list[bytes] = []
        self.rejected: dict[str, str] = {}
        rows: list[list[Array]] = [[] for _ in models]
        for start in range(0, len(source), BATCH):
            progress(start, len(source), f"{start} of {len(source)} photos")
            batch = self._decodable(source, range(start, min(start + BATCH, len(source))))
            for model, own in zip(self.models, rows, strict=True):
                if batch:
                    own.append(model.images(pixels(batch, model.image_size, model.resize_mode, model.interpolation)))
        if not self.keys:
            raise ValueError("no photo could be decoded")
        self.embeddings = [np.concatenate(own) for own in rows]

    def _decodable(self, source: Source, indices: range) -> list[tuple[str, bytes]]:
        found = []
        for index in indices:
            try:
                sample = source[index]
                photo = decode_rgb(sample.image, sample.key)
            except BadImageError as error:
                self.rejected[str(index)] = str(error)
                continue
            photo.thumbnail((THUMBNAIL, THUMBNAIL))
            small = io.BytesIO()
            photo.save(small, "JPEG", quality=85)
            self.keys.append(sample.key)
            self.thumbnails.append(small.getvalue())
            found.append((sample.key, sample.image))
        return found

    def search(self, sentence: str, count: int) -> list[tuple[list[Hit], float]]:
        """Per model: the `count` nearest photos, the nearest first, and the milliseconds that the sentence's embedding took."""
        answers = []
        for model, photos in zip(self.models, self.embeddings, strict=True):
            start = time.perf_counter()
            text = model.texts([sentence])[0]
            spent = (time.perf_counter() - start) * 1e3
            cosines = photos @ text
            order = np.argsort(-cosines, kind="stable")[:count]
            answers.append(([Hit(int(index), float(cosines[index])) for index in order], spent))
        return answers

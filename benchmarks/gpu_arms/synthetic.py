"""Synthetic JPEGs with captions, as data for machines that have none."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from PIL import Image

from reinforced_data.sample import Caption, RawSample

WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "small",
    "old",
    "red",
    "dog",
    "near",
    "that",
    "wooden",
    "house",
    "under",
    "tall",
    "trees",
    "on",
    "some",
    "quiet",
    "street",
    "in",
    "winter",
]


def synthetic(count: int, pixels: tuple[int, int]) -> list[RawSample]:
    """Smooth noise as JPEGs of quality 90, each with two captions of some ten words."""

    def one(number: int) -> RawSample:
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        file = io.BytesIO()
        small.resize(pixels, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        texts = (" ".join(rng.choice(WORDS, int(rng.integers(6, 16)))) for _ in range(2))
        return RawSample(f"{number:06}", file.getvalue(), tuple(Caption(text, "real") for text in texts))

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, range(count)))


class Synthetic:
    """The synthetic images as a source of data.

    Args:
        count: how many samples it has, each image again and again under another key; None = each once.
    """

    name, licence, fingerprint = "synthetic", "CC0-1.0", "synthetic"

    def __init__(self, samples: list[RawSample], count: int | None = None) -> None:
        self.samples, self._count = samples, len(samples) if count is None else count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> RawSample:
        return replace(self.samples[index % len(self.samples)], key=f"{index:06}")

    def zero_shot(self) -> None:
        """No classes."""

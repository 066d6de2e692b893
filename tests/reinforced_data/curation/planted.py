"""Reinforced sets whose embeddings are chosen by the test: every image is one colour that spells its number."""

import numpy as np
import torch
from PIL import Image

from reinforced_data.curation.filter import Rows, parse_filter
from reinforced_data.sample import Caption, RawSample
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.stubs import ListSource, StubTeacher, encoded, make_set

SETTINGS = {
    "views_per_image": 1,
    "view_preset": "none",
    "embed_dtype": "fp32",
    "shard_size": 7,
    "batch_size": 8,
    "seed": 0,
}


class PlantedTeacher(StubTeacher):
    """Image number i has embedding images[i]; a caption that ends in "#<i>" has texts[i], any other zeros but one."""

    def __init__(self, images, texts=None, name="planted", seed=0):
        super().__init__(name, width=images.shape[1], image_size=4, seed=seed)
        self.images = torch.from_numpy(np.asarray(images, np.float32))
        self.texts = torch.from_numpy(np.asarray(images if texts is None else texts, np.float32))

    def encode_image(self, pixels):
        colour = (pixels[:, :, 0, 0] * 255).round().long()
        return self.images[colour[:, 0] + 256 * colour[:, 1]]

    def encode_text(self, captions):
        return torch.stack(
            [self.texts[int(text.rpartition("#")[2])] if "#" in text else self.texts[0] for text in captions]
        )


def plain(number, size=(6, 6)):
    """The encoded image of that number."""
    return encoded(Image.new("RGB", size, (number % 256, number // 256, 7)))


def planted_set(out, teachers, keys=None, captions=None, images=None):
    """A finished set of as many samples as the first teacher has image embeddings."""
    count = len(teachers[0].images)
    samples = [
        RawSample(
            key=keys[i] if keys else f"k{i:04d}",
            image=images[i] if images else plain(i),
            captions=tuple(captions[i]) if captions else (Caption(f"picture #{i}"),),
        )
        for i in range(count)
    ]
    make_set(ListSource(samples), teachers, out, **SETTINGS)
    return ReinforcedData(out)


def rows_of(data):
    return Rows(data, np.arange(len(data)), [data.text(i).key for i in range(len(data))])


def select(data, text, seed=0):
    """(outcome, [n] kept) of one filter over the whole set."""
    outcome = parse_filter(text)[1].select(rows_of(data), seed)
    return outcome, ~np.any([np.zeros(len(data), bool), *outcome.dropped.values()], axis=0)


def unit_vectors(count, width, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

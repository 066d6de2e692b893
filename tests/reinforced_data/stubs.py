"""Tiny teachers, sources and images for the tests of reinforced data."""

import functools
import hashlib
import io

import numpy as np
import torch
from PIL import Image

from distill.core.existing import Existing
from distill.core.progress import silent
from distill.core.strict import parse
from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.sample import Caption, RawSample
from teachers.captioner import CaptionerSpec, CaptionSettings
from teachers.spec import TeacherSpec


class StubTeacher:
    """A fixed linear projection of pixels; captions become pseudo-random unit vectors of their letters."""

    device = "cpu"
    resize_mode, interpolation = "shortest", "bicubic"

    def __init__(self, name="stub", width=8, image_size=16, kind="softmax", scale=50.0, bias=0.0, seed=0):
        self.spec = TeacherSpec(name, "stub", "stub", width, image_size, None, kind, "MIT", True)
        self.logit_scale, self.logit_bias = scale, bias
        self.weights_sha256 = hashlib.sha256(f"{name}{seed}".encode()).hexdigest()
        generator = torch.Generator().manual_seed(seed + width)
        self.image_map = torch.randn(3 * image_size * image_size, width, generator=generator)
        self.text_map = torch.randn(256, width, generator=generator)
        self.image_batches: list[tuple[int, ...]] = []
        self.texts: list[str] = []

    def encode_image(self, pixels):
        assert pixels.dtype == torch.float32
        assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1
        self.image_batches.append(tuple(pixels.shape))
        return torch.nn.functional.normalize((pixels - 0.5).flatten(1) @ self.image_map + 1e-3, dim=1)

    def encode_text(self, captions):
        self.texts += captions
        counts = torch.zeros(len(captions), 256)
        for row, text in enumerate(captions):
            for place, byte in enumerate(text.encode()):
                counts[row, byte] += 1 + place / 7
        return torch.nn.functional.normalize(counts @ self.text_map + 1e-3, dim=1)

    def describe(self):
        return {"name": self.spec.name, "loader": "stub", "mean": [0.5] * 3, "path": None}


class StubCaptioner:
    """Says the mean colour of an image and a word of its seed; nothing of an image of odd width, if `shy`."""

    def __init__(self, name="chatter", captions=2, shy=False):
        self.spec = CaptionerSpec(name, "stub", "stub", "MIT", True)
        self.settings = CaptionSettings(captions=captions)
        self.weights_sha256 = hashlib.sha256(name.encode()).hexdigest()
        self.shy = shy
        self.calls: list[int] = []

    def caption(self, images, seeds):
        self.calls.append(len(images))
        return [
            []
            if self.shy and image.shape[1] % 2
            else [f"{self.spec.name} {n}: {image.mean(axis=(0, 1)).round(2)} {seed % 97}" for n in range(4)]
            for image, seed in zip(images, seeds, strict=True)
        ]

    def describe(self):
        return {"loader": "stub"}


class ListSource:
    """A source over samples in memory."""

    name, licence = "list", "CC0-1.0"

    def __init__(self, samples):
        self.samples = samples
        digest = hashlib.sha256()
        for sample in samples:
            digest.update(sample.key.encode() + sample.image)
        self.fingerprint = digest.hexdigest()

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def zero_shot(self):
        return None


def picture(seed, width=24, height=20, mode="RGB"):
    """A smooth random image."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@functools.cache
def photo(seed, width, height):
    """Noise with as much detail at every scale, as photos have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for side in (4, 16, 64, 256):
        small = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float) - 128
    return Image.fromarray((total / 4 + 128).clip(0, 255).astype(np.uint8))


def encoded(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def samples(count, first=0, captions=2):
    """`count` samples of differing sizes; the first caption is shared by every third sample."""
    return [
        RawSample(
            key=f"s{number:03d}",
            image=encoded(picture(number, 18 + number % 5, 16 + number % 7)),
            captions=(
                Caption(f"group {number % 3}"),
                *(Caption(f"sample {number} text {c}") for c in range(1, captions)),
            ),
        )
        for number in range(first, first + count)
    ]


def two_teachers():
    return [
        StubTeacher("alpha", width=8, image_size=16),
        StubTeacher("open_clip:X-1/y", width=12, image_size=12, kind="sigmoid", scale=10.0, bias=-10.0, seed=3),
    ]


def make_set(
    source, teachers, folder, *, captioners=(), seed=0, existing=Existing.REFUSE, progress=silent, workers=0, **settings
):
    """`reinforce` with settings by name, read as a recipe's are."""
    told = parse(ReinforceSettings, settings, "reinforce")
    given = {"captioners": captioners, "seed": seed, "existing": existing, "progress": progress, "workers": workers}
    return reinforce(source, teachers, folder, told, **given)

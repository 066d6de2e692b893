"""Training pairs: one view and one caption of a sample, in an order that is a function of the seed alone.

Global batch `step` depends on (seed, step) and nothing else, so a run resumes at any step, with another number of ranks
or workers, and sees exactly what it would have seen. Caption policies beyond a uniform draw are left out here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill.core.errors import DistillError, UsageError
from reinforced_data.decode import BadImageError, decode_rgb
from reinforced_data.read import ReinforcedData, TeacherFacts
from reinforced_data.sample import Batch, Caption
from reinforced_data.source import Source
from reinforced_data.views import draw_view, render_view, view_preset

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Array = np.ndarray[Any, Any]

SMALL_SIDE = 128  # pixels; images no larger are kept decoded, since decoding them costs more than keeping them
CACHE_BYTES = 512 << 20
_ORDER_STREAM, _DRAW_STREAM = 2, 3  # see label._VIEW_STREAM


@dataclass(frozen=True)
class Pair:
    """One training pair: image [S, S, 3] uint8, text, and per teacher the unit-length [D] float32 of each side."""

    key: str
    image: "Array"
    text: str
    teacher_image: "dict[str, Array]" = field(default_factory=dict)
    teacher_text: "dict[str, Array]" = field(default_factory=dict)


class Pairs(Protocol):
    """A set that pairs can be drawn from. `teachers` is empty when the data is not reinforced."""

    teachers: dict[str, TeacherFacts]

    def __len__(self) -> int: ...

    def pair(self, index: int, rng: "np.random.Generator") -> Pair:
        """A pair of sample `index`; which view and caption is drawn from `rng`."""
        ...


class _SmallImages:
    """Decoded small images, kept until a budget is spent. Copies in other processes start empty."""

    def __init__(self) -> None:
        self._images: dict[int, Image] = {}
        self._bytes = 0

    def get(self, index: int) -> "Image | None":
        return self._images.get(index)

    def keep(self, index: int, image: "Image") -> bool:
        """Keep `image` when it is small and there is room; says whether it was kept."""
        size = image.width * image.height * 4  # Pillow holds RGB in four bytes
        if max(image.size) > SMALL_SIDE or self._bytes + size > CACHE_BYTES:
            return False
        self._images[index] = image
        self._bytes += size
        return True

    def __reduce__(self) -> "tuple[type[_SmallImages], tuple[()]]":
        return _SmallImages, ()


class StoredPairs:
    """Pairs from a reinforced set: a stored view with its embeddings, a stored caption with its own.

    Args:
        path: folder of the set.
        image_size: S, pixels, of the rendered views (the student's, not the teachers').

    Raises UsageError or DistillError as `ReinforcedData` does.
    """

    def __init__(self, path: Path, image_size: int) -> None:
        self.data = ReinforcedData(path)
        self.teachers = self.data.teachers
        self.image_size = image_size
        self._small = _SmallImages()

    def __len__(self) -> int:
        return len(self.data)

    def pair(self, index: int, rng: "np.random.Generator") -> Pair:
        """See `Pairs`. Raises DistillError naming the sample when its image is not the one that was reinforced."""
        text = self.data.text(index)
        view, caption = int(rng.integers(len(text.views))), int(rng.integers(len(text.captions)))
        image = self._small.get(index)
        if image is None:
            image = self.data.decoded(index)
            self._small.keep(index, image)
        return Pair(
            key=text.key,
            image=render_view(image, text.views[view], self.image_size),
            text=text.captions[caption].text,
            teacher_image={name: _unit(self.data.image_embed(index, name, view)) for name in self.teachers},
            teacher_text={name: _unit(self.data.text_embed(index, name, caption)) for name in self.teachers},
        )


class RawPairs:
    """Pairs from a source that was not reinforced: a fresh view, one of its captions, no teachers.

    A sample that cannot be used (bad image, no caption) is replaced by the next usable one and listed in `rejected`
    (key -> reason; with data loader workers each keeps its own list).

    Args:
        source: the samples. view_preset: how views are drawn. image_size: S, pixels.
    """

    def __init__(self, source: Source, view_preset: str, image_size: int) -> None:
        _known_preset(view_preset)
        self.teachers: dict[str, TeacherFacts] = {}
        self.rejected: dict[str, str] = {}
        self.source = source
        self.view_preset = view_preset
        self.image_size = image_size
        self._bad: set[int] = set()
        self._small = _SmallImages()
        self._facts: dict[int, tuple[str, tuple[Caption, ...]]] = {}  # of the images kept in _small

    def __len__(self) -> int:
        return len(self.source)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_facts": {}}

    def pair(self, index: int, rng: "np.random.Generator") -> Pair:
        """See `Pairs`. Raises DistillError when no sample at all can be used."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            if place in self._bad:
                continue
            try:
                key, captions, image = self._load(place)
            except BadImageError as error:
                self._bad.add(place)
                self.rejected[error.key] = error.reason
                continue
            view = draw_view(self.view_preset, image.width, image.height, rng)
            text = captions[int(rng.integers(len(captions)))].text
            return Pair(key=key, image=render_view(image, view, self.image_size), text=text)
        reasons = "; ".join(f"{key}: {reason}" for key, reason in list(self.rejected.items())[:3])
        raise DistillError(
            f"None of the {len(self)} samples of {self.source.name!r} can be trained on ({reasons}). Training needs "
            "images that decode, each with at least one caption."
        )

    def _load(self, index: int) -> "tuple[str, tuple[Caption, ...], Image]":
        kept = self._small.get(index)
        if kept is not None:
            return (*self._facts[index], kept)
        raw = self.source[index]
        if not raw.captions:
            raise BadImageError(raw.key, "no caption")
        image = decode_rgb(raw.image, raw.key)
        if self._small.keep(index, image):
            self._facts[index] = (raw.key, raw.captions)
        return raw.key, raw.captions, image


def _known_preset(name: str) -> None:
    view_preset(name)  # raises; a function of its own because arguments here carry the same name


def _unit(vector: "Array") -> "Array":
    """Unit length again after half-precision rounding (about 1e-4 off); float32 vectors stay as they are."""
    import numpy as np

    norm = float(np.sqrt(np.dot(vector, vector)))
    return vector if abs(norm - 1.0) < 1e-6 or norm == 0.0 else (vector / np.float32(norm)).astype(np.float32)


def epoch_order(seed: int, epoch: int, count: int) -> "Array":
    """The order of `count` samples in an epoch: a permutation that depends on (seed, epoch) alone."""
    import numpy as np

    return _rng(seed, _ORDER_STREAM, epoch).permutation(count).astype(np.int64)


def _rng(*words: int) -> "np.random.Generator":
    import numpy as np

    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


class _Steps:
    """Step number -> this rank's part of the global batch. A map-style data set for torch's DataLoader."""

    def __init__(self, pairs: Pairs, batch_size: int, seed: int, rank: int, world: int) -> None:
        self._pairs, self._seed = pairs, seed
        self._batch_size, self._part = batch_size, batch_size // world
        self._first = rank * self._part
        self._order: tuple[int, Array] | None = None

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, len(self._pairs) // self._batch_size)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, epoch_order(self._seed, epoch, len(self._pairs)))
        start = place * self._batch_size + self._first
        indices = [int(index) for index in self._order[1][start : start + self._part]]
        return collate([self._pairs.pair(i, _rng(self._seed, _DRAW_STREAM, epoch, i)) for i in indices])


def collate(pairs: list[Pair]) -> Batch:
    """b pairs as one batch: images [b, 3, S, S] float32 in [0, 1], teacher embeddings [b, D] float32."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.stack([pair.image for pair in pairs]))
    return Batch(
        images=pixels.permute(0, 3, 1, 2).contiguous().float().div_(255),
        texts=[pair.text for pair in pairs],
        teacher_image={
            name: torch.from_numpy(np.stack([pair.teacher_image[name] for pair in pairs]))
            for name in pairs[0].teacher_image
        },
        teacher_text={
            name: torch.from_numpy(np.stack([pair.teacher_text[name] for pair in pairs]))
            for name in pairs[0].teacher_text
        },
        keys=[pair.key for pair in pairs],
    )


def batches(
    pairs: Pairs,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """This rank's batches of the steps first_step <= step < last_step.

    Each epoch visits every sample once in the order of `epoch_order`; an incomplete last batch is dropped.

    Args:
        batch_size: B, over all ranks; rank r takes the r-th of `world` equal parts.
        workers: processes that make batches ahead; 0 = in this one. The batches are the same.

    Raises:
        UsageError: the set is smaller than one batch, or the batch does not divide among the ranks.
    """
    if batch_size < 1 or world < 1 or batch_size % world or not 0 <= rank < world:
        raise UsageError(f"A global batch of {batch_size} does not divide among {world} ranks (this is rank {rank}).")
    if len(pairs) < batch_size:
        raise UsageError(
            f"The set has {len(pairs)} samples, fewer than one batch of {batch_size}. Give more, or a smaller batch."
        )
    steps = _Steps(pairs, batch_size, seed, rank, world)
    if workers == 0:
        return (steps[step] for step in range(first_step, last_step))
    return _from_workers(steps, range(first_step, last_step), workers)


def _from_workers(steps: _Steps, numbers: range, workers: int) -> Iterator[Batch]:
    from torch.utils.data import DataLoader

    # A "sample" of this loader is a whole batch, so its order and content are those of the steps.
    yield from DataLoader(steps, batch_size=None, sampler=numbers, num_workers=workers)  # type: ignore[arg-type]

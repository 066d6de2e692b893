"""The embedded default source: "rendered", or "rendered:train=4000,eval=500,seed=0,size=64".

Nothing is read and nothing is stored: a sample is drawn when it is asked for, and sample i is the same whatever was
asked before. Left out: how a scene looks and reads, see `reinforced_data.rendered`.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from distill.core.errors import UsageError, nearest
from reinforced_data.read_as import ReadAs
from reinforced_data.rendered.captions import CLASS_NAMES, CLASSES, TEMPLATES, captions
from reinforced_data.rendered.draw import png
from reinforced_data.rendered.scene import VERSION, sample_scene, scene_rng
from reinforced_data.sample import Caption, RawSample, ZeroShotTask
from reinforced_data.source import NAMED, SOURCES, Source, Split

ZERO_SHOT_PER_CLASS = 10
_BOUNDS = {
    "train": (1, 10_000_000),
    "eval": (1, 1_000_000),
    "seed": (0, 2**63 - 1),
    "size": (32, 1024),
    "single": (0, 100),
}


@dataclass(frozen=True)
class Parameters:
    """What the location string can say.

    Attributes:
        train: scenes in the train split.
        eval: scenes in the eval split.
        seed: picks the scenes; the pairs held out of the train split are the same for every seed.
        size: side of the images, pixels.
        single: percent of scenes with one group of objects instead of two.
    """

    train: int = 4000
    eval: int = 500
    seed: int = 0
    size: int = 64
    single: int = 25


def parse_location(location: str) -> Parameters:
    """The parameters in "rendered[:key=value,...]". Raises UsageError for an unknown key or an unusable value."""
    values: dict[str, int] = {}
    example = "Write it like 'rendered:train=4000,eval=500,seed=0,size=64'; every part can be left out."
    name, _, tail = location.partition(":")
    if name != "rendered":
        raise UsageError(f"{location!r} does not name the rendered data set. {example}")
    for part in filter(None, (piece.strip() for piece in tail.split(","))):
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if key not in _BOUNDS:
            raise UsageError(
                f"Unknown key {key!r} in the data location {location!r}. {nearest(key, _BOUNDS)} {example}"
            )
        if key in values:
            raise UsageError(f"The data location {location!r} says {key!r} twice. Keep one of them.")
        low, high = _BOUNDS[key]
        if not equals or not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            raise UsageError(
                f"{part!r} in the data location {location!r}: {key} takes a whole number from {low} to {high}. "
                f"{example}"
            )
        values[key] = int(text)
    return Parameters(**values)


class RenderedSource:
    """One split of the rendered set, a `Source`."""

    name = "rendered"
    licence = "Apache-2.0 (made by this package)"

    def __init__(self, parameters: Parameters, split: Split, limit: int | None) -> None:
        self.parameters = parameters
        self.split = split
        self._limit = limit
        self.read_as = ReadAs("drawings made by this package", "captions from the scene", split=f"split {split!r}")
        whole = parameters.train if split == "train" else parameters.eval
        self._length = whole if limit is None else min(limit, whole)
        # The other split's length changes nothing here, and neither does a limit that cuts nothing.
        scenes = f"seed={parameters.seed} size={parameters.size} single={parameters.single}"
        told = f"{VERSION} split={split} length={self._length} {scenes}"
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> RawSample:
        if not 0 <= index < self._length:
            raise IndexError(f"sample {index} of a rendered {self.split} split of {self._length}")
        rng = scene_rng(self.parameters.seed, self.split, index)
        scene = sample_scene(rng, self.split, single=self.parameters.single / 100)
        return RawSample(
            key=f"rendered-{self.split}-{index:06d}",
            image=png(scene, self.parameters.size),
            captions=tuple(Caption(text) for text in captions(scene, rng)),
        )

    def zero_shot(self) -> ZeroShotTask | None:
        """Colour of a single object x tint of the background, over eval-only scenes; None for the train split.

        Image i is of class i modulo the number of classes, so that a `limit` (which cuts these images as well) keeps
        the classes balanced.
        """
        if self.split == "train":
            return None
        count = len(CLASS_NAMES) * ZERO_SHOT_PER_CLASS
        return _zero_shot(self.parameters.seed, self.parameters.size, min(count, self._limit or count))


@lru_cache(maxsize=4)
def _zero_shot(seed: int, size: int, count: int) -> ZeroShotTask:
    labels = tuple(i % len(CLASSES) for i in range(count))
    images = tuple(
        png(sample_scene(scene_rng(seed, "zero-shot", i), "eval", only=CLASSES[label]), size)
        for i, label in enumerate(labels)
    )
    return ZeroShotTask("rendered colours", images, labels, CLASS_NAMES, TEMPLATES)


@SOURCES.register("rendered")
def open_rendered(location: str, split: Split, limit: int | None) -> Source:
    """The rendered set at `location`, its first `limit` scenes. Raises UsageError when a word of the call is wrong."""
    parameters = parse_location(location)
    split = "eval" if split == "given" else split.removeprefix(NAMED)
    if split not in ("train", "eval"):
        raise UsageError(f"The rendered data set has no split {split!r}. {nearest(str(split), ('train', 'eval'))}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit} leaves no sample of the rendered data set. Give 1 or more, or leave it out.")
    return RenderedSource(parameters, split, limit)

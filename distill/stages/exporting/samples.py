"""The real images and captions that an export is checked on, and other ones that quantized files learn their scales from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distill.console import Console
from distill.core.errors import DistillError
from distill.recipe import Recipe
from distill.stages.evaluate import evaluation_columns, open_evalset, open_evaluation, source_of
from reinforced_data.pixels.decode import BadImageError, decode_rgb
from reinforced_data.source import open_source

if TYPE_CHECKING:
    from reinforced_data.sample import RawSample
    from reinforced_data.source import Source


@dataclass(frozen=True)
class ImagesAndCaptions:
    """Encoded images with their keys, and captions.

    Attributes:
        images: (key, encoded bytes).
        captions: at least one.
        fits: the caption's number for each image, -1 = it has none here; empty = not known.
        terms: of the data that they are of, with its name: the first of them are handed on with the files.
    """

    images: list[tuple[str, bytes]]
    captions: list[str]
    terms: str
    fits: tuple[int, ...] = ()

    def first(self, n: int) -> "ImagesAndCaptions":
        """The first `n` of both."""
        fits = tuple(row if row < n else -1 for row in self.fits[:n])
        return ImagesAndCaptions(self.images[:n], self.captions[:n], self.terms, fits)


def parity_samples(recipe: Recipe, n: int, console: Console) -> ImagesAndCaptions:
    """`n` evaluation images and captions of a recipe, or all where there are fewer.

    Where there are classes and no captions, prompts are made of the classes; where there are images alone, the captions are
    those of the embedded set, and that is said.
    """
    opened = open_evaluation(recipe)
    (_, place, source), sources = opened[0], [source for _, _, source in opened]
    try:
        data = open_evalset(recipe)
    except DistillError:
        images = _images(source, n)
        if not images:
            raise
        console.say(f"{place!r} has no captions: text towers are checked on those of the embedded set.")
        return ImagesAndCaptions(images, _embedded_captions(n), _terms(source, "rendered"))
    if data.task is not None and len(data.samples) < 2:
        images = [(f"{data.task.name}-{i}", image) for i, image in enumerate(data.task.images)]
        prompts = [data.task.templates[0].format(name) for name in data.task.class_names]
        return ImagesAndCaptions(images, prompts, _terms(*sources), tuple(data.task.labels)).first(n)
    return ImagesAndCaptions(
        [(sample.key, sample.image) for sample in data.samples],
        [sample.captions[0].text for sample in data.samples],
        _terms(source),
        tuple(range(len(data.samples))),
    ).first(n)


def calibration_samples(recipe: Recipe, n: int, console: Console) -> ImagesAndCaptions:
    """`n` training images and captions of a recipe, or all where there are fewer: none of those that parity is measured on.

    Raises DistillError where the data has no training part.
    """
    place = source_of(recipe.data)
    source = open_source(place, "train", n, columns=replace(evaluation_columns(recipe), lenient=True))
    images = _images(source, n)
    if not images:
        raise DistillError(f"There are no training images in {place!r} to calibrate on. Name others with --data PLACE.")
    captions = [caption.text for sample in _readable(source, n) for caption in sample.captions[:1]]
    if not captions:
        console.say(f"{place!r} has no captions: text towers are calibrated on those of the embedded set.")
    terms = _terms(source) if captions else _terms(source, "rendered")
    return ImagesAndCaptions(images, captions or _embedded_captions(n), terms)


def _terms(*sources: "Source | str") -> str:
    """The name and licence of each source; a name is a source that this package brings."""
    opened = [open_source(source, "eval", 1) if isinstance(source, str) else source for source in sources]
    return "; ".join(dict.fromkeys(f"{source.name}: {source.licence}" for source in opened))


def _readable(source: "Source", n: int) -> "Iterator[RawSample]":
    """The first `n` samples of a source whose images decode."""
    found = 0
    for index in range(len(source)):
        try:
            sample = source[index]
            decode_rgb(sample.image, sample.key)
        except BadImageError:
            continue
        yield sample
        found += 1
        if found == n:
            return


def _images(source: "Source", n: int) -> list[tuple[str, bytes]]:
    return [(sample.key, sample.image) for sample in _readable(source, n)]


def _embedded_captions(n: int) -> list[str]:
    source = open_source("rendered", "eval", n)
    return [source[index].captions[0].text for index in range(len(source))]

"""Training pairs: one view of a sample and the captions to read with it, all drawn by a generator that is handed in.

Which captions is a `caption_policy`'s business, the order of samples and the making of batches the `loader`'s.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError, UsageError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.pixels.picture import Picture
from reinforced_data.pixels.rendering import SMALL_SIDE, Rendering
from reinforced_data.pixels.views import draw_view, view_preset
from reinforced_data.sample import Caption
from reinforced_data.sentences import SENTENCE, sub_sentences
from reinforced_data.source import Source
from reinforced_data.store.reader import ReinforcedData
from reinforced_data.store.unpaired import UnpairedTexts
from reinforced_data.training.caption_policy import CaptionPolicy
from reinforced_data.training.kept_pictures import KeptPictures
from reinforced_data.training.replay import Replay, stored_view
from teachers.spec import TeacherFacts

_LOOKED_AT = 256  # samples whose caption sources decide an "auto" policy


@dataclass(frozen=True)
class Pair:
    """One training pair: image [S, S, 3] uint8 and its `image_id`; one caption or (policy "sum") a real and a synthetic one;
    and per teacher the unit-length float32 embeddings: [D] of the view, [captions, D] of the texts.
    """

    key: str
    image: Array
    image_id: int
    texts: tuple[str, ...]
    teacher_image: dict[str, Array] = field(default_factory=dict)
    teacher_text: dict[str, Array] = field(default_factory=dict)


class Pairs(Protocol):
    """A set that pairs can be drawn from.

    `teacher_facts` is empty when the data is not reinforced; `image_size` is the side of the pairs' images in pixels.
    """

    teacher_facts: dict[str, TeacherFacts]
    image_size: int

    @property
    def unpaired(self) -> UnpairedTexts | None:
        """Texts of no image that are drawn beside them; None = none."""
        ...

    def __len__(self) -> int: ...

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """A pair of sample `index`; view and captions are drawn from `rng`, as many captions for every sample."""
        ...

    def key(self, index: int) -> str:
        """What messages call sample `index`."""
        ...

    def texts(self, index: int) -> list[str]:
        """Every caption of sample `index`."""
        ...

    def side(self) -> int:
        """The longer side of the first image, pixels, for guesses at what images cost."""
        ...


class StoredPairs:
    """Pairs from a reinforced set: a stored view with its embeddings, stored captions with their own.

    Args:
        folder: of the set.
        image_size: S, pixels, of the rendered views (the student's, not the teachers').
        captions: how captions are drawn. replay: see the module `replay`.

    Attributes:
        unpaired: texts of no image to draw beside the pairs; None until they are given.
        policy: `captions` with "auto" decided by the sources of the first samples.

    Raises:
        UsageError: sentences are asked for and none are stored; else as `ReinforcedData`.
        DistillError: as `ReinforcedData`.
    """

    def __init__(
        self, folder: Path, image_size: int, captions: CaptionPolicy | None = None, replay: Replay = "exact"
    ) -> None:
        self.data = ReinforcedData(folder)
        self.teacher_facts = self.data.teacher_facts
        self.image_size = image_size
        self.replay = replay
        sources = {source for i in range(min(_LOOKED_AT, len(self.data))) for source in self._sources(i)}
        self.policy = (captions or CaptionPolicy()).resolve(sources)
        if self.policy.sub_sentences and not any(source.endswith(SENTENCE) for source in sources):
            raise UsageError(
                f"captions.sub_sentences is set, but {str(folder)!r} stores no sentences of its captions (sources that end "
                f"in {SENTENCE!r}; the first {_LOOKED_AT} samples were looked at), and teachers have only read the whole "
                "ones. Reinforce again with sentences, or leave the setting out."
            )
        self.unpaired: UnpairedTexts | None = None
        self._kept = KeptPictures(len(self.data), image_size)

    def __len__(self) -> int:
        return len(self.data)

    def key(self, index: int) -> str:
        """What messages call sample `index`: its key."""
        return self.data.key(index)

    def side(self) -> int:
        """The longer side of the first image, pixels."""
        return max(self.data.size(0))

    def texts(self, index: int) -> list[str]:
        """Every caption of sample `index`."""
        return [self.data.caption(index, caption).text for caption in range(self.data.counts(index)[1])]

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """A pair of sample `index`, drawn from `rng`.

        Raises DistillError naming the sample when its image is not the one that was reinforced.
        """
        data = self.data
        number = int(rng.integers(data.counts(index)[0]))
        picked = self.policy.draw(self._sources(index), rng)
        return Pair(
            key=data.key(index),
            image=self._image(index, number),
            image_id=image_id(data.image_sha256(index)),
            texts=tuple(data.caption(index, caption).text for caption in picked),
            teacher_image={name: _unit(data.image_embed(index, name, number)) for name in self.teacher_facts},
            teacher_text={name: self._text_embeds(index, name, picked) for name in self.teacher_facts},
        )

    def captions(self, index: int) -> tuple[list[str], dict[str, Array]]:
        """Every caption of sample `index` and per teacher their unit-length embeddings, float32 [captions, D]."""
        number = range(self.data.counts(index)[1])
        texts = [self.data.caption(index, caption).text for caption in number]
        return texts, {name: self._text_embeds(index, name, tuple(number)) for name in self.teacher_facts}

    def _sources(self, index: int) -> list[str]:
        return self.data.caption_sources(index)

    def _image(self, index: int, number: int) -> Array:
        view, picture = self.data.view(index, number), self._kept.get(index)
        if picture is None:
            near = self.replay == "fast" and self.data.manifest.rendering == "pillow"
            if near and max(self.data.size(index)) > SMALL_SIDE:
                return stored_view(self.data, index, view, self.image_size)
            picture = self.data.picture(index)
            self._kept.keep(index, picture)
        pixels = picture.render(view, self.image_size)
        self._kept.settle(index)
        return pixels

    def _text_embeds(self, index: int, teacher: str, captions: tuple[int, ...]) -> Array:
        return np.stack([_unit(self.data.text_embed(index, teacher, caption)) for caption in captions])


class RawPairs:
    """Pairs from a source that was not reinforced: a fresh view, one of its captions, no teachers.

    A sample that cannot be used (bad image, no caption) is replaced by the next usable one and listed in `rejected`
    (key -> reason; with data loader workers each keeps its own list).

    Args:
        source: the samples. view_preset: how views are drawn. image_size: S, pixels.
        captions: how captions are drawn; "auto" is "any" here, and sentences are cut when they are drawn, since no
            teacher read the whole.
        rendering: by which rule views are drawn and become pixels.
    """

    def __init__(
        self,
        source: Source,
        view_preset: str,
        image_size: int,
        captions: CaptionPolicy | None = None,
        rendering: Rendering = "pillow",
    ) -> None:
        _known_preset(view_preset)
        self.teacher_facts: dict[str, TeacherFacts] = {}
        self.unpaired: UnpairedTexts | None = None
        self.rejected: dict[str, str] = {}
        self.source = source
        self.view_preset = view_preset
        self.image_size = image_size
        self.rendering = rendering
        self.policy = (captions or CaptionPolicy()).resolve(())
        self._bad: set[int] = set()
        self._kept = KeptPictures(len(source), image_size)
        self._facts: dict[int, tuple[str, tuple[Caption, ...], int]] = {}  # of the images that are kept

    def __len__(self) -> int:
        return len(self.source)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_facts": {}}

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """A pair of sample `index`, drawn from `rng`. Raises DistillError when no sample at all can be used."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            if place in self._bad:
                continue
            undrawn = rng.bit_generator.state
            try:
                key, captions, number, picture = self._load(place)
                view = draw_view(self.view_preset, *picture.size, rng, self.rendering)
                image = picture.render(view, self.image_size)
                self._kept.settle(place)
            except BadImageError as error:
                rng.bit_generator.state = undrawn  # a sample that is known to be bad draws nothing
                self._bad.add(place)
                self.rejected[error.key] = error.reason
                continue
            return Pair(key=key, image=image, image_id=number, texts=self._texts(captions, rng))
        reasons = "; ".join(f"{key}: {reason}" for key, reason in list(self.rejected.items())[:3])
        raise DistillError(
            f"None of the {len(self)} samples of {self.source.name!r} can be trained on ({reasons}). Training needs "
            "images that decode, each with at least one caption."
        )

    def key(self, index: int) -> str:
        """What messages call sample `index`: its key."""
        return self.source[index].key

    def side(self) -> int:
        """The longer side of the first image that can be used, pixels."""
        for index in range(min(len(self), _LOOKED_AT)):
            try:
                return max(Picture(self.source[index].image, "", self.rendering).size)
            except BadImageError:
                continue
        return 0

    def texts(self, index: int) -> list[str]:
        """Every caption of sample `index`."""
        return [caption.text for caption in self.source[index].captions]

    def _texts(self, captions: Sequence[Caption], rng: np.random.Generator) -> tuple[str, ...]:
        picked = self.policy.draw([caption.source for caption in captions], rng)
        texts = tuple(captions[number].text for number in picked)
        return tuple(self._perhaps_sentence(text, rng) for text in texts) if self.policy.sub_sentences else texts

    def _perhaps_sentence(self, text: str, rng: np.random.Generator) -> str:
        sentences = sub_sentences(text)
        choices = [text, *sentences] if len(sentences) > 1 else [text]
        return choices[int(rng.integers(len(choices)))]

    def _load(self, index: int) -> tuple[str, tuple[Caption, ...], int, Picture]:
        kept = self._kept.get(index)
        if kept is not None:
            return (*self._facts[index], kept)
        raw = self.source[index]
        if not raw.captions:
            raise BadImageError(raw.key, "no caption")
        picture = Picture(raw.image, raw.key, self.rendering)
        number = image_id(hashlib.sha256(raw.image).hexdigest())
        if self._kept.keep(index, picture):
            self._facts[index] = (raw.key, raw.captions, number)
        return raw.key, raw.captions, number, picture


def image_id(sha256: str) -> int:
    """A signed 64-bit number that equal images share: the first bytes of the SHA-256 of the encoded image."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)


def _known_preset(name: str) -> None:
    view_preset(name)  # raises; a function of its own because arguments here carry the same name


def _unit(vector: Array) -> Array:
    """Unit length again after half-precision rounding (about 1e-4 off); float32 vectors stay as they are."""
    norm = float(np.sqrt(np.dot(vector, vector)))
    return vector if abs(norm - 1.0) < 1e-6 or norm == 0.0 else (vector / np.float32(norm)).astype(np.float32)

"""From a sample of the source to what models are asked about: decoded, its views drawn and rendered.

What is asked depends on what an earlier, smaller set holds of the same sample already (`known`): its views and captions
are the first ones of the larger set, and no model sees them again. No model is called here, and none is held, so that a
`Preparation` can go to other processes. Which threads or processes do it, and how far ahead, is the business of `ahead`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import UsageError
from distill.core.streams import Stream, rng
from reinforced_data.pixels.decode import BadImageError, decode_rgb
from reinforced_data.pixels.picture import Picture
from reinforced_data.pixels.views import draw_view
from reinforced_data.sample import RawSample, View
from reinforced_data.source import Source
from reinforced_data.store.manifest import Plan, Rejected
from reinforced_data.store.row import Row
from teachers.captioner import Captioner
from teachers.teacher import Teacher

FIRST_LOOK = 1000  # samples that are looked at before any model is loaded
_WHOLE_IMAGE = (
    4096 * 3072 * 3
)  # bytes taken for an image that waits for a captioner; its size is not known before it is decoded

Base = Callable[[int], Mapping[str, Row]]  # source sample -> by key, the rows of the shard that is extended and has it


def refuse_useless(source: Source, *, least: int = 1, captioned: bool = False) -> None:
    """Raise UsageError when no more than `least` - 1 samples of a source can be used, as far as a first look tells.

    For before any model is loaded: of a source with more than `FIRST_LOOK` samples the rest may still serve, and nothing is raised.

    Args:
        captioned: whether a captioner will write captions, so that samples need not bring any.
    """
    usable, reasons = 0, Counter[str]()
    for index in range(min(len(source), FIRST_LOOK)):
        try:
            raw = source[index]
            if raw.captions or captioned:
                decode_rgb(raw.image, raw.key)
                usable += 1
            else:
                reasons["no caption"] += 1
        except BadImageError as error:
            reasons[error.reason] += 1
        if usable == least:
            return
    if len(source) <= FIRST_LOOK:
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        raise UsageError(
            f"{usable or 'None'} of the {len(source)} samples of {source.name!r} can be used{f' ({why})' if why else ''}, and at "
            f"least {least} must. A sample is an image that decodes, with a caption; a captioner writes captions: --captioner NAME."
            f" It was {source.read_as.line()}."
        )


@dataclass(frozen=True)
class Item:
    """A sample that can be used, and what is known of it; small enough to keep until its shard is written.

    Attributes:
        index: of the sample in its source.
        raw: the sample as found.
        image_sha256: of its encoded image, hex.
        size: (width, height) of the decoded upright image, pixels.
        views: all views that the plan asks for; those of `known` come first.
        known: the same sample in the set that is being extended, None in a new set.
    """

    index: int
    raw: RawSample
    image_sha256: str
    size: tuple[int, int]
    views: Sequence[View]
    known: Row | None

    def views_known(self, teacher: str) -> int:
        """How many of the views the teacher has labelled already; they are the first ones."""
        return _views_known(self.known, teacher)

    def captions_known(self, teacher: str) -> int:
        """How many of the captions the teacher has labelled already; they are the first ones."""
        return len(self.known.captions) if self.known and teacher in self.known.text_embeds else 0

    def captioned_by(self, captioner: str) -> bool:
        """Whether the captioner has captioned the image already."""
        return _captioned(self.known, captioner)


@dataclass(frozen=True)
class Prepared:
    """An item with its pixels, which are let go as soon as the models have taken them.

    Attributes:
        views: (side in pixels, number of views that are known already) -> the rendered other views, [S, S, 3] uint8
            each. Teachers of one input size that know equally many views share them.
        image: the whole upright image, [H, W, 3] uint8, where a captioner is to be asked, else None.
    """

    item: Item
    views: Mapping[tuple[int, int], Sequence[Array]]
    image: Array | None


def nothing_known(index: int) -> Mapping[str, Row]:
    """The `Base` of a new set."""
    return {}


class Preparation:
    """Prepares samples of `source` for the models of `plan`; `base` says what the set that it extends knows already."""

    def __init__(
        self,
        source: Source,
        teachers: Sequence[Teacher],
        captioners: Sequence[Captioner],
        plan: Plan,
        base: Base = nothing_known,
    ) -> None:
        self.source, self.plan, self.base = source, plan, base
        self._sides = {teacher.spec.name: teacher.spec.image_size for teacher in teachers}
        self._captioners = [captioner.spec.name for captioner in captioners]

    @property
    def pixel_bytes(self) -> int:
        """Bytes that the pixels of a prepared sample take, about."""
        views = sum(self.plan.views_per_image * side * side * 3 for side in set(self._sides.values()))
        return max(1, views + (_WHOLE_IMAGE if self._captioners else 0))

    def read(self, index: int) -> tuple[RawSample, Mapping[str, Row]] | Rejected:
        """Sample `index` as found, with the rows among which it may be known. Not for several threads at once."""
        try:
            return self.source[index], self.base(index)
        except BadImageError as error:
            return Rejected(key=error.key, reason=error.reason)

    def prepare(self, raw: RawSample, base: Mapping[str, Row], index: int) -> Prepared | Rejected:
        """What `read` gave of sample `index`, ready for the models. For any number of threads at once."""
        try:
            return self._prepare(raw, base, index)
        except BadImageError as error:
            return Rejected(key=error.key, reason=error.reason)

    def _prepare(self, raw: RawSample, base: Mapping[str, Row], index: int) -> Prepared | Rejected:
        if not raw.captions and not self._captioners:
            return Rejected(key=raw.key, reason="no caption")
        digest = hashlib.sha256(raw.image).hexdigest()
        known = _known(raw, digest, base)
        missing = {(side, _views_known(known, name)) for name, side in self._sides.items()}
        to_caption = any(not _captioned(known, name) for name in self._captioners)
        count = self.plan.views_per_image
        picture: Picture | None = None
        if known is not None and not to_caption and all(first >= count for _, first in missing):
            size = (known.width, known.height)  # nothing is asked about it, so it is not decoded
        else:
            picture = Picture(raw.image, raw.key, self.plan.rendering)
            size = picture.size
        # All views are drawn, the known ones too: the stream of random numbers of a sample has one beginning, and so
        # view 3 of an extended set is the view 3 of a set made at once.
        draws = rng(Stream.VIEWS, self.plan.seed, index)
        rule = self.plan.rendering
        views = [draw_view(self.plan.view_preset, size[0], size[1], draws, rule) for _ in range(count)]
        if known is not None and list(known.views) != views[: len(known.views)]:
            return Rejected(key=raw.key, reason="its stored views are not those that its seed draws")
        item = Item(index, raw, digest, size, views, known)
        rendered = {(side, first): _render(picture, views[first:], side) for side, first in missing}
        return Prepared(item, rendered, np.asarray(picture.image) if to_caption and picture is not None else None)


def _known(raw: RawSample, digest: str, base: Mapping[str, Row]) -> Row | None:
    """What the extended set holds of the sample; nothing when image or captions of that key are others now."""
    known = base.get(raw.key)
    if known is None or known.image_sha256 != digest:
        return None
    return known if list(known.captions[: len(raw.captions)]) == list(raw.captions) else None


def _views_known(known: Row | None, teacher: str) -> int:
    return len(known.image_embeds[teacher]) if known is not None and teacher in known.image_embeds else 0


def _captioned(known: Row | None, captioner: str) -> bool:
    return known is not None and any(caption.source == f"synthetic:{captioner}" for caption in known.captions)


def _render(picture: Picture | None, views: Sequence[View], side: int) -> list[Array]:
    return [picture.render(view, side) for view in views] if picture is not None else []

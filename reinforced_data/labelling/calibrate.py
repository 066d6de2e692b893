"""`calibrated`: the logit scale of each teacher, published, its checkpoint's own, or fitted on held-out pairs.

**Criterion.** Temperature scaling (Guo et al., arXiv:1706.04599): the scale under which the teacher's own probabilities
are the likeliest for the true pairs. For a softmax teacher it minimises InfoNCE, the mean of both directions, over
batches of the training's size (the probabilities of a pair depend on how many others compete with it); a caption that
occurs several times in a batch has all of its images as equal positives. For a sigmoid teacher scale and bias minimise
SigLIP's pairwise loss. Both problems are convex, in one and in two unknowns, and are solved in float64 (`fit_scale`). The views are
drawn as those to be stored, because a strong augmentation lowers every similarity and so the fitted scale.

**What it is not.** The scale that fits a teacher to pairs need not be the one that teaches best. MobileCLIP2
(arXiv:2508.20691, Table 3) found the latter by training a student per value: 50 (datacomp_xl), 60 and 70 (DFN2B), 90
and 55 (DFN5B at 224 and 378 pixels), flat within 5 either way, where all these checkpoints themselves hold about 100.
Their weights are not here, so nobody has measured here how near this criterion comes to that table; hence a published
optimum wins over a fitted one unless "all" is asked for. What fitting does give is a teacher whose probabilities are
neither one-hot nor flat at the training's batch size, whatever its checkpoint held.

Left out: which data is held out (the caller passes it) and fitting a scale during training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from distill.core.arrays import Array
from distill.core.clip.weights import ClipWeights
from distill.core.errors import DistillError, UsageError
from distill.core.streams import Stream, rng
from reinforced_data.labelling.encode import encode_images, encode_texts
from reinforced_data.labelling.fit_scale import sigmoid_scale, softmax_scale
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.pixels.picture import Picture
from reinforced_data.pixels.views import draw_view
from reinforced_data.source import Source
from teachers.teacher import Teacher

if TYPE_CHECKING:
    from torch import Tensor

Which = bool | Literal["all"]  # False: none; True: teachers without a published scale; "all": every teacher
MOST_PAIRS = 2048
LEAST_PAIRS = 16


@dataclass(frozen=True)
class Scale:
    """A teacher's scale and where it came from.

    Attributes:
        logit_scale: multiplies cosine similarity, already exponentiated. logit_bias: 0.0 for softmax teachers.
        source: "published" (the spec's), "checkpoint" (the weights' own) or "calibrated".
        pairs, batch_size: held-out pairs used and how many competed at a time; 0 when not calibrated.
    """

    logit_scale: float
    logit_bias: float
    source: Literal["published", "checkpoint", "calibrated"]
    pairs: int = 0
    batch_size: int = 0


class ScaledTeacher:
    """A teacher under another scale and bias; everything else is the teacher's own, its weights and hash included."""

    def __init__(self, teacher: Teacher, scale: Scale) -> None:
        self._teacher = teacher
        self.spec = teacher.spec
        self.weights_sha256 = teacher.weights_sha256
        self.resize_mode, self.interpolation = teacher.resize_mode, teacher.interpolation
        self.logit_scale, self.logit_bias, self.scale = scale.logit_scale, scale.logit_bias, scale

    def encode_image(self, pixels: "Tensor") -> "Tensor":
        """[b, 3, H, W] RGB in [0, 1] -> [b, D], by the teacher."""
        return self._teacher.encode_image(pixels)

    def encode_text(self, captions: list[str]) -> "Tensor":
        """b captions -> [b, D], by the teacher."""
        return self._teacher.encode_text(captions)

    def describe(self) -> dict[str, object]:
        """What a manifest records; "scale" says where the scale came from."""
        origin = {"source": self.scale.source, "pairs": self.scale.pairs, "batch_size": self.scale.batch_size}
        own = {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias, "scale": origin}
        return {**self._teacher.describe(), **own}

    @property
    def device(self) -> Any:
        """The torch device of the teacher's weights."""
        return self._teacher.device

    @property
    def parameters(self) -> dict[str, int] | None:
        """The teacher's three parameter counts, None where it has no such parts."""
        return self._teacher.parameters

    def to(self, device: Any) -> "ScaledTeacher":
        """The same, its teacher's weights moved to a torch device."""
        self._teacher.to(device)
        return self

    def inheritable(self) -> ClipWeights:
        """The teacher's weights, for a student to start from; UsageError where none can."""
        return self._teacher.inheritable()


def calibrated(
    teachers: Sequence[Teacher],
    source: Source | None,
    settings: ReinforceSettings = ReinforceSettings(),  # noqa: B008 - frozen
    *,
    which: Which = True,
    batch_size: int = 256,
    seed: int = 0,
    most_pairs: int = MOST_PAIRS,
    known: Sequence[dict[str, Any]] = (),
) -> list[ScaledTeacher]:
    """Every teacher with its scale, in order.

    Args:
        source: held-out images with captions; may be None when nothing is to be calibrated.
        settings: of the set that is to be made: views are drawn and teachers are asked alike.
        which: see `Which`.
        batch_size: pairs that compete in a training batch; fewer where the source has fewer.
        known: `teachers` of the plan of an unfinished set: what was calibrated there is taken over, not fitted anew, so
            that a resumed run has the same scale to the last bit.

    Raises:
        UsageError: a scale is to be calibrated and there are fewer than `LEAST_PAIRS` usable pairs.
        DistillError: a teacher does not tell pairs from non-pairs, so that no scale fits it.
    """
    found: list[Scale | None] = [_without_fitting(teacher, which, known) for teacher in teachers]
    missing = [teacher for teacher, scale in zip(teachers, found, strict=True) if scale is None]
    if missing:
        if source is None:
            raise UsageError(
                "Calibrating a teacher's scale needs held-out images with captions. Name data that has them."
            )
        embeds = _embed(missing, source, settings, seed, most_pairs)
        fitted = iter([_fit(teacher, *pair, batch_size) for teacher, pair in zip(missing, embeds, strict=True)])
        found = [next(fitted) if scale is None else scale for scale in found]
    return [ScaledTeacher(teacher, scale) for teacher, scale in zip(teachers, found, strict=True) if scale is not None]


def _without_fitting(teacher: Teacher, which: Which, known: Sequence[dict[str, Any]]) -> Scale | None:
    """The scale that needs no fitting, None when one is to be fitted."""
    published = teacher.spec.logit_scale is not None
    if which is False or (published and which != "all"):
        return Scale(teacher.logit_scale, teacher.logit_bias, "published" if published else "checkpoint")
    for facts in known:
        origin = facts.get("scale") or {}
        same = facts["name"] == teacher.spec.name and facts["weights_sha256"] == teacher.weights_sha256
        if same and origin.get("source") == "calibrated":
            return Scale(facts["logit_scale"], facts["logit_bias"], "calibrated", origin["pairs"], origin["batch_size"])
    return None


def _fit(teacher: Teacher, image: "Tensor", text: "Tensor", owner: "Tensor", batch_size: int) -> Scale:
    if teacher.spec.kind == "sigmoid":
        scale, bias = sigmoid_scale(image, text, owner, batch_size)
    else:
        scale, bias = softmax_scale(image, text, owner, batch_size), 0.0
    if scale <= 0:
        raise DistillError(
            f"Teacher {teacher.spec.name!r} finds held-out captions no more like their images than other captions, so "
            "no logit scale fits it. Are these its weights (a rehearsal has none), and do the captions belong to the "
            "images? Without --calibrate its own scale is used."
        )
    # One decimal: finer than any use of it, and the same on machines whose last bits differ.
    return Scale(round(scale, 1), round(bias, 1), "calibrated", len(image), min(batch_size, len(image)))


# --- held-out pairs ---


def _embed(
    teachers: Sequence[Teacher], source: Source, settings: ReinforceSettings, seed: int, most: int
) -> "list[tuple[Tensor, Tensor, Tensor]]":
    """Per teacher [n, D] image and text embeddings of n pairs, and [n] int64: pairs of one number share a caption."""
    import torch

    draws = rng(Stream.CALIBRATE, seed)
    order = draws.permutation(len(source))
    images: list[list[Tensor]] = [[] for _ in teachers]
    views: list[list[Array]] = [[] for _ in teachers]
    texts: list[str] = []

    def encode() -> None:
        for place, teacher in enumerate(teachers):
            if views[place]:
                images[place].append(torch.from_numpy(encode_images(teacher, views[place])))
                views[place].clear()

    for index in map(int, order):
        try:
            raw = source[index]
            if not raw.captions:
                continue
            picture = Picture(raw.image, raw.key, settings.rendering)
            view = draw_view(settings.view_preset, *picture.size, draws, settings.rendering)
            rendered = [picture.render(view, teacher.spec.image_size) for teacher in teachers]
        except BadImageError:
            continue  # counted when the set is made; here another pair does as well
        for place, pixels in enumerate(rendered):
            views[place].append(pixels)
        texts.append(raw.captions[0].text)
        if len(views[0]) == settings.batch_size:
            encode()
        if len(texts) == most:
            break
    encode()
    if len(texts) < LEAST_PAIRS:
        raise UsageError(
            f"Calibrating needs at least {LEAST_PAIRS} held-out images with captions; {source.name!r} has {len(texts)} "
            "that can be used. Give more data, or leave --calibrate out."
        )
    number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    owner = torch.tensor([number[text] for text in texts])
    words = [torch.from_numpy(encode_texts(teacher, texts, settings.batch_size)) for teacher in teachers]
    return [(torch.cat(parts), text, owner) for parts, text in zip(images, words, strict=True)]

"""`verify`: ask the live teachers again about stored views and captions and report how far the store is from them.

Samples are drawn at random until their views come to the number asked for, and of a drawn sample every view and every
caption is checked, for every teacher. A set passes when its worst cosine reaches the gate of its embedding type.
Left out: comparing teachers with each other, and repairing (reinforce again).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError, UsageError, nearest
from distill.core.streams import Stream, rng
from reinforced_data.labelling.encode import encode_images, encode_texts
from reinforced_data.store.dtypes import MIN_COSINE
from reinforced_data.store.reader import ReinforcedData
from teachers.teacher import Teacher


@dataclass(frozen=True)
class _Place:
    """Which view or caption a cosine belongs to: the number `part` of sample `sample`."""

    sample: int
    part: int


def verify(folder: Path, teachers: Sequence[Teacher], views: int | Literal["all"], seed: int = 0) -> dict[str, Any]:
    """Run all stored views and captions of randomly drawn samples through the live teachers again.

    Args:
        folder: of a finished set.
        views: draw samples until they have this many views; "all" = every sample.
        seed: of the draw.

    Returns:
        "embed_dtype", its "gate", "teacher_precision" (of the labels; the live teachers run in float32), "asked", "passed",
        the "samples", "views" and "captions" checked, and "teachers": per name "image_min", "image_mean", "text_min",
        "text_mean" (cosines, float64), "image_worst" and "text_worst" (key, view or caption number, cosine) and
        "same_weights" (whether the live weights have the stored hash).

    Raises:
        UsageError: a teacher is not in the set, or views < 1. DistillError: an image is not the one that was reinforced.
    """
    if views != "all" and views < 1:
        raise UsageError(f"Verifying {views} views says nothing. Give at least 1, or all.")
    data = ReinforcedData(folder)
    for teacher in teachers:
        if teacher.spec.name not in data.teacher_facts:
            raise UsageError(
                f"{str(folder)!r} has no embeddings of {teacher.spec.name!r}. {nearest(teacher.spec.name, data.teacher_facts)}"
            )
    chosen = _draw(data, views, seed)
    gate = MIN_COSINE[data.manifest.embed_dtype]
    figures = {teacher.spec.name: _compare(data, teacher, chosen) for teacher in teachers}
    worst = min((min(of["image_min"], of["text_min"]) for of in figures.values()), default=1.0)
    return {
        "embed_dtype": data.manifest.embed_dtype,
        "teacher_precision": data.manifest.teacher_precision,
        "gate": gate,
        "asked": views,
        "passed": worst >= gate,
        "samples": len(chosen),
        "views": sum(len(data.text(i).views) for i in chosen),
        "captions": sum(len(data.text(i).captions) for i in chosen),
        "teachers": figures,
    }


def require_passed(report: dict[str, Any], where: str) -> None:
    """Raise DistillError when a report of `verify` did not pass, naming the worst sample, its view and teacher."""
    if report["passed"]:
        return
    found = [
        (worst["cosine"], name, noun, part, worst, of["same_weights"])
        for name, of in report["teachers"].items()
        for noun, part, worst in (("view", "view", of["image_worst"]), ("caption", "caption", of["text_worst"]))
    ]
    cosine, name, noun, part, worst, same = min(found, key=lambda item: item[0])
    precision = report.get("teacher_precision", "no")
    rounded = f"the set was labelled in {precision}, too coarse for this teacher (reinforce.teacher_precision=no is float32), or "
    reason = (rounded if same and precision != "no" else "") + (
        "its shard, the image decoder or the machine's arithmetic has changed; reinforce again, or look for the "
        "difference between the versions in the manifest and those installed"
        if same
        else "the teacher in use has other weights than the one that made the set; name that one"
    )
    raise DistillError(
        f"The embeddings in {where!r} are not those of the live teachers: {noun} {worst[part]} of sample "
        f"{worst['key']!r} has a cosine of {cosine:.6f} with teacher {name!r}, and {report['embed_dtype']} must reach "
        f"{report['gate']}. Either {reason}."
    )


def _draw(data: ReinforcedData, views: int | Literal["all"], seed: int) -> list[int]:
    """Indices of samples whose views come to `views`, ascending."""
    if views == "all":
        return list(range(len(data)))
    draws = rng(Stream.VERIFY, seed)
    chosen, found = [], 0
    for index in map(int, draws.permutation(len(data))):
        if found >= views:
            break
        chosen.append(index)
        found += len(data.text(index).views)
    return sorted(chosen)


def _compare(data: ReinforcedData, teacher: Teacher, chosen: list[int]) -> dict[str, Any]:
    name, batch = teacher.spec.name, data.manifest.batch_size
    stored_hash = next(facts["weights_sha256"] for facts in data.manifest.teachers if facts["name"] == name)
    image, text = _Worst(), _Worst()
    pixels: list[tuple[_Place, Array, Array]] = []
    words: list[tuple[_Place, str, Array]] = []

    def ask(*, at_least: int) -> None:
        while len(pixels) >= at_least:
            part, pixels[:batch] = pixels[:batch], []
            image.add([p for p, _, _ in part], encode_images(teacher, [x for _, x, _ in part]), [e for *_, e in part])
        while len(words) >= at_least:
            lines, words[:batch] = words[:batch], []
            live = encode_texts(teacher, [line for _, line, _ in lines], batch)
            text.add([p for p, _, _ in lines], live, [e for *_, e in lines])

    for index in chosen:
        stored, picture = data.text(index), data.picture(index)
        for number, (view, embed) in enumerate(zip(stored.views, data.image_embeds(index, name), strict=True)):
            pixels.append((_Place(index, number), picture.render(view, teacher.spec.image_size), embed))
        for number, (caption, embed) in enumerate(zip(stored.captions, data.text_embeds(index, name), strict=True)):
            words.append((_Place(index, number), caption.text, embed))
        ask(at_least=batch)
    ask(at_least=1)
    return {
        "image_min": image.least,
        "image_mean": image.mean,
        "text_min": text.least,
        "text_mean": text.mean,
        "image_worst": image.about(data, "view"),
        "text_worst": text.about(data, "caption"),
        "same_weights": teacher.weights_sha256 == stored_hash,
    }


class _Worst:
    """Least and mean of cosines that come in batches, and where the least was."""

    def __init__(self) -> None:
        self.least, self._sum, self._count = 2.0, 0.0, 0
        self._place = _Place(0, 0)

    def add(self, places: list[_Place], live: Array, stored: list[Array]) -> None:
        """One batch, rows [n, D] float32."""
        cosines = _cosines(live, stored)
        lowest = int(cosines.argmin())
        if cosines[lowest] < self.least:
            self.least, self._place = float(cosines[lowest]), places[lowest]
        self._sum += float(cosines.sum())
        self._count += len(places)

    @property
    def mean(self) -> float:
        """The mean of all cosines that were added."""
        return self._sum / max(self._count, 1)

    def about(self, data: ReinforcedData, part: str) -> dict[str, Any]:
        """Where the least cosine was: the sample's key, the number of its view or caption, the cosine."""
        return {"key": data.text(self._place.sample).key, part: self._place.part, "cosine": self.least}


def _cosines(live: Array, stored: list[Array]) -> Array:
    """[n] float64; -1 for a row that is not finite, so that nothing broken can pass."""
    a, b = live.astype(np.float64), np.stack(stored).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        cosines: Array = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-300)
    return np.nan_to_num(cosines, nan=-1.0, posinf=-1.0, neginf=-1.0)

"""The projections of a student's towers in closed form, from the embeddings that teachers stored: before any step is taken.

One pass over the set without a gradient: pooled features of the views and of the captions against what the teachers said of
the same. Left out: the regression (`students.inherit.projections.ridge`) and which towers need it (`new_projections`).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distill.core.arrays import Array
from distill.core.clip.channels_last import channels_last
from distill.core.errors import UsageError
from distill.core.progress import Progress, silent
from distill.core.streams import Stream, rng
from reinforced_data.training.loader import collate
from students.inherit.projections.place import projection_of
from students.inherit.projections.ridge import HELD_OUT, RidgeRegression, shared_space
from students.inherit.start import NEW

if TYPE_CHECKING:
    from reinforced_data.curation.selection import SelectedPairs
    from reinforced_data.training.pairs import StoredPairs
    from students.student import Student

Rows = Iterator[tuple[Tensor | list[str], list[Tensor]]]  # images or captions, and per teacher [b, D_t]

BATCH = 64
IMAGES = 20_000  # views to fit on: 16 for each of a tower's 1,280 features
CAPTIONS = 60_000
SPACE = 1_000  # samples that the space of several teachers is found from
NOUNS = {"visual": "image", "text": "text"}


def new_projections(student: "Student", inherited: dict[str, Any]) -> dict[str, list[str]]:
    """The towers whose weights are inherited and whose projection is not, with the names of its tensors.

    What such a tower knows would be lost behind a random one.
    """
    found = {}
    origins = inherited.get("origins", {})
    names = {id(tensor): name for name, tensor in student.clip.named_parameters()}
    for tower in inherited["towers"]:
        try:
            tensors = [names[id(tensor)] for tensor in projection_of(student.clip, tower).parameters]
        except UsageError:
            continue
        if any(origins.get(name) == NEW for name in tensors):
            found[tower] = tensors
    return found


def can_project(data: Any) -> bool:
    """Whether `StoredPairs` or `RawPairs` carry a teacher's embeddings, of enough samples to hold some out."""
    return bool(data.teacher_facts) and len(data) >= 2 * HELD_OUT


def project(
    student: "Student", data: "StoredPairs | SelectedPairs", towers: list[str], seed: int, progress: Progress = silent
) -> dict[str, dict[str, float]]:
    """Fit the projections of `towers` in place, and say of each: samples, penalty and the variance explained.

    Args:
        student: its towers' features are taken in eval mode.
        data: with teachers; images at the student's size.
        towers: "visual", "text" or both, each ending in one linear map.
        seed: of the samples and views drawn.

    Raises ValueError where `can_project` says that the data does not serve.
    """
    if not can_project(data):
        raise ValueError("There are no stored embeddings to fit a projection to.")
    order = rng(Stream.PAIRS, seed, 0, 0).permutation(len(data))
    width = int(student.spec.model_cfg["embed_dim"])
    space = _space(data, order[:SPACE], width, seed)
    training = student.training
    student.eval()
    rows = {
        "visual": (_images(data, order[:IMAGES], seed), min(len(order), IMAGES)),
        "text": (_captions(data, order), min(len(order) * len(data.captions(int(order[0]))[0]), CAPTIONS)),
    }
    found = {tower: _fit(student, tower, *rows[tower], space, progress) for tower in towers}
    student.train(training)
    return found


def _fit(student: "Student", tower: str, rows: Rows, total: int, space: Tensor, progress: Progress) -> dict[str, float]:
    place = projection_of(student.clip, tower)
    regression = RidgeRegression(*place.shape, offset=place.takes_offset)
    done = 0
    with torch.no_grad(), place.left_out(), channels_last(student.clip.visual):
        for given, embeds in rows:
            if isinstance(given, Tensor):
                features = student.clip.encode_image(student.normalised(given.to(student.device)))
            else:
                features = student.clip.encode_text(student.tokenize(given).to(student.device))
            regression.add(features, torch.cat(embeds, 1) / len(embeds) ** 0.5 @ space)
            done += len(features)
            progress(min(done, total), total, f"features of the {NOUNS[tower]} tower")
    fit = regression.fit()
    if not place.holds(fit.weight, fit.offset):  # fewer samples than the map is wide
        fit = regression.through_zero().fit()
    place.set(fit.weight, fit.offset)
    return {"samples": fit.samples, "penalty": fit.penalty, "explained": round(fit.explained, 4)}


def _space(data: "StoredPairs | SelectedPairs", order: Array, width: int, seed: int) -> Tensor:
    """[sum of D_t, D]: see `shared_space`. Embeddings that are as wide as the student stay, and no view is rendered for them."""
    if sum(facts.width for facts in data.teacher_facts.values()) == width:
        return torch.eye(width)
    return shared_space(
        [torch.cat(each) for each in zip(*(row for _, row in _both(data, order, seed)), strict=True)], width
    )


def _both(data: "StoredPairs | SelectedPairs", order: Array, seed: int) -> Rows:
    yield from _images(data, order, seed)
    yield from _captions(data, order)


def _images(data: "StoredPairs | SelectedPairs", order: Array, seed: int) -> Rows:
    """Stored views [b, 3, S, S] in [0, 1], each teacher's embeddings of them."""
    for start in range(0, len(order), BATCH):
        numbers = [int(i) for i in order[start : start + BATCH]]
        batch = collate([data.pair(i, rng(Stream.PAIRS, seed, 0, i)) for i in numbers])
        yield batch.images.float() / 255, [batch.teacher_image[name] for name in data.teacher_facts]


def _captions(data: "StoredPairs | SelectedPairs", order: Array) -> Rows:
    """Stored captions, all of a sample together, then unpaired texts, and each teacher's embeddings of them."""
    seen = 0
    for start in range(0, len(order), BATCH):
        rows = [data.captions(int(i)) for i in order[start : start + BATCH]]
        texts = [text for row, _ in rows for text in row]
        yield texts, [torch.from_numpy(np.concatenate([row[name] for _, row in rows])) for name in data.teacher_facts]
        seen += len(texts)
        if seen >= CAPTIONS:
            break
    if (unpaired := data.unpaired) is None:
        return
    for start in range(0, min(len(unpaired), CAPTIONS), BATCH):
        numbers = np.arange(start, min(start + BATCH, len(unpaired)))
        texts = [unpaired.texts[int(i)] for i in numbers]
        yield texts, [torch.from_numpy(unpaired.embeds(name, numbers)) for name in data.teacher_facts]

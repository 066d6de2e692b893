"""What the captions of a reinforced set are like, per source, from stored columns alone: no model runs.

Length, repetition, diversity (distinct-n, arXiv:1510.03055) and, per teacher, how well the captions fit their own image.
The set is read once in order; of a large set a seeded part of the samples, so that memory and time stay bounded. Left out:
what to do about bad captions (policies and filters).
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.streams import Stream, rng
from reinforced_data.store.reader import ReinforcedData

SAMPLES = 20_000  # read at most, by default
RIVALS = 32  # other images that a caption's own image is ranked among
_BANK = 512  # images from which every sample's rivals are drawn
_LOOK = 256  # samples looked at to see whether a captioner wrote any captions
_WORD = re.compile(r"\w+(?:['\u2019]\w+)?")


@dataclass
class _Teacher:
    """One teacher's view of one source: a number per caption, and per sample with several captions."""

    cosines: list[float] = field(default_factory=list)
    first: int = 0
    ranked: int = 0
    alike_sum: float = 0.0
    alike_samples: int = 0


@dataclass
class _Source:
    """What is counted of one source."""

    captions: int = 0
    samples: int = 0
    lengths: "Counter[int]" = field(default_factory=Counter)
    repeats_in_sample: int = 0
    texts: set[int] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    word_count: int = 0
    pair_count: int = 0
    teachers: dict[str, _Teacher] = field(default_factory=dict)


def has_captioner(data: ReinforcedData) -> bool:
    """Whether a captioner wrote captions of the first samples of `data` (captions from a label's template do not count)."""
    sources = {caption.source for i in range(min(_LOOK, len(data))) for caption in data.text(i).captions}
    return any(source.startswith("synthetic:") and source != "synthetic:label-template" for source in sources)


def caption_report(
    data: ReinforcedData, *, seed: int = 0, samples: int = SAMPLES, rivals: int = RIVALS
) -> dict[str, Any]:
    """Figures per caption source ("real" first).

    Args:
        data: a finished set.
        seed: of the samples read and of the rivals.
        samples: at most so many samples are read, drawn by `seed`; all where there are fewer.
        rivals: other images that each caption's own image is ranked among; fewer where there are fewer samples.

    Returns:
        {"samples", "samples_read", "rivals", "seed", "sources": {source: facts}}, facts being: "captions" and "samples"
        (counts); "words_mean", "words_p5", "words_p95" (words per caption; nearest rank); "repeats_in_sample" and
        "repeats_in_set" (share of captions whose exact text stood before in the sample, in what was read of the source);
        "distinct_1", "distinct_2" (distinct words and word pairs over all, lower case); "teachers": per teacher
        "cosine_mean" and "cosine_p10" (nearest rank) of a caption's embedding with the mean of its image's views,
        "first_share" (captions strictly nearer to their own image than to each rival; None without rivals),
        "self_similarity" (mean cosine of two captions of one sample, mean over samples; None where none has two).
    """
    draws = rng(Stream.CAPTION_REPORT, seed)
    chosen = [int(i) for i in np.sort(draws.permutation(len(data))[:samples])]
    pool = [int(i) for i in np.sort(draws.permutation(np.array(chosen, np.int64))[:_BANK])]
    banks = {name: np.stack([_image(data, i, name) for i in pool]) for name in data.teacher_facts} if pool else {}
    rivals = min(rivals, len(pool) - 1) if pool else 0
    sources: dict[str, _Source] = {}
    for index in chosen:
        others = [place for place in draws.permutation(len(pool))[: rivals + 1] if pool[int(place)] != index][:rivals]
        _read(data, index, banks, others, sources)
    return {
        "samples": len(data),
        "samples_read": len(chosen),
        "rivals": rivals,
        "seed": seed,
        "sources": {name: _facts(sources[name]) for name in sorted(sources, key=lambda name: (name != "real", name))},
    }


def _read(
    data: ReinforcedData, index: int, banks: dict[str, Array], others: list[int], sources: dict[str, _Source]
) -> None:
    captions = data.text(index).captions
    places: dict[str, list[int]] = {}
    for place, caption in enumerate(captions):
        places.setdefault(caption.source, []).append(place)
    for source, own in places.items():
        _count(sources.setdefault(source, _Source()), [captions[place].text for place in own])
    for name, bank in banks.items():
        image = _image(data, index, name)
        texts = _unit(data.text_embeds(index, name))
        for source, own in places.items():
            _judge(sources[source].teachers.setdefault(name, _Teacher()), texts[own], image, bank[others])


def _count(facts: _Source, texts: list[str]) -> None:
    facts.samples += 1
    facts.captions += len(texts)
    facts.repeats_in_sample += len(texts) - len(set(texts))
    for text in texts:
        words = _WORD.findall(text.lower())
        facts.lengths[len(words)] += 1
        facts.texts.add(hash(text))
        facts.words.update(words)
        facts.word_count += len(words)
        facts.pairs.update(itertools.pairwise(words))
        facts.pair_count += max(0, len(words) - 1)


def _judge(facts: _Teacher, texts: Array, image: Array, rivals: Array) -> None:
    """texts: [C, D]; image: [D]; rivals: [R, D]; all unit length."""
    cosines = texts @ image
    facts.cosines += cosines.tolist()
    if len(rivals):
        facts.first += int((cosines[:, None] > texts @ rivals.T).all(1).sum())
        facts.ranked += len(texts)
    if len(texts) > 1:
        alike = texts @ texts.T
        count = len(texts)
        facts.alike_sum += float((alike.sum() - alike.trace()) / (count * (count - 1)))
        facts.alike_samples += 1


def _facts(source: _Source) -> dict[str, Any]:
    return {
        "captions": source.captions,
        "samples": source.samples,
        "words_mean": source.word_count / source.captions,
        "words_p5": _nearest_rank(source.lengths.elements(), 0.05),
        "words_p95": _nearest_rank(source.lengths.elements(), 0.95),
        "repeats_in_sample": source.repeats_in_sample / source.captions,
        "repeats_in_set": 1 - len(source.texts) / source.captions,
        "distinct_1": len(source.words) / source.word_count if source.word_count else 0.0,
        "distinct_2": len(source.pairs) / source.pair_count if source.pair_count else 0.0,
        "teachers": {
            name: {
                "cosine_mean": math.fsum(seen.cosines) / len(seen.cosines),
                "cosine_p10": _nearest_rank(seen.cosines, 0.1),
                "first_share": seen.first / seen.ranked if seen.ranked else None,
                "self_similarity": seen.alike_sum / seen.alike_samples if seen.alike_samples else None,
            }
            for name, seen in source.teachers.items()
        },
    }


def _nearest_rank(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _image(data: ReinforcedData, index: int, teacher: str) -> Array:
    """The mean of the views' unit embeddings, unit length: [D] float64."""
    mean: Array = _unit(data.image_embeds(index, teacher)).mean(0)
    whole: Array = _unit(mean[None])[0]
    return whole


def _unit(rows: Array) -> Array:
    """[n, D] -> float64, unit length; a row of zeros stays one."""
    wide = rows.astype(np.float64)
    norms = np.sqrt((wide * wide).sum(-1, keepdims=True))
    result: Array = wide / np.where(norms == 0, 1.0, norms)
    return result

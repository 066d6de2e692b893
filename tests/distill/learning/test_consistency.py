"""Weights by teacher consistency against the formula of ALIP written out pair by pair in plain Python."""

import math

import pytest
import torch
from torch.nn import functional as F

from distill.learning.consistency import consistency_weights, normalised
from distill.learning.embeddings import embeddings

B, T = 6, 0.5


def unit(seed, width=5):
    return F.normalize(
        torch.randn(B, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


def dot(a, b):
    return [sum(float(x) * float(y) for x, y in zip(u, v, strict=True)) for u, v in zip(a, b, strict=True)]


def mean(values):
    return sum(values) / len(values)


def gate(similarities):
    """exp((S - H) / T) of the mean over teachers."""
    similarity = [mean(values) for values in zip(*similarities, strict=True)]
    return [math.exp((s - mean(similarity)) / T) for s in similarity]


def streams(*texts):
    """Teachers "a" and "b" of other widths; texts are seeds, one per stream."""
    one = torch.ones((), dtype=torch.float64)
    widths = {"a": 5, "b": 7}
    return [{n: embeddings(unit(1, w), unit(text, w), one) for n, w in widths.items()} for text in texts]


def test_one_stream_is_the_pairs_own_gate():
    (made,) = given = streams(2)
    (found,) = consistency_weights(given, T)
    assert found.tolist() == pytest.approx(gate([dot(t.image, t.text) for t in made.values()]), rel=1e-12)


def test_two_streams_are_alips_gates():
    real, synthetic = given = streams(2, 3)
    language = gate([dot(real[n].text, synthetic[n].text) for n in real])
    assert min(language) < 1 < max(language)
    for found, stream in zip(consistency_weights(given, T), (real, synthetic), strict=True):
        pair = gate([dot(t.image, t.text) for t in stream.values()])
        expected = [min(g, 1) * (p if g < 1 else 1) for g, p in zip(language, pair, strict=True)]
        assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_caption_that_fits_counts_more():
    image = torch.eye(2, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    (weights,) = consistency_weights([{"t": embeddings(image, torch.stack([image[0], image[0]]), one)}], T)
    assert weights[0] > weights[1]
    assert weights[0] / weights[1] == pytest.approx(math.exp(2))  # cosines 1 and 0, T = 0.5


def test_normalised_weights_have_a_mean_of_one():
    assert normalised(torch.tensor([1.0, 3.0])).tolist() == [0.5, 1.5]
    assert normalised(torch.full((7,), 0.5)).tolist() == normalised(torch.zeros(7)).tolist() == [1.0] * 7

"""Retrieval and zero-shot against a brute-force ranking, ties included."""

import numpy as np
import pytest

from distill.evaluation.metrics import class_embeddings, interval, retrieval, zero_shot


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_retrieval_is_the_brute_force_ranking():
    rng = np.random.default_rng(0)
    image, owner = unit(rng, 30, 5), np.repeat(np.arange(30), rng.integers(1, 6, 30))
    text = unit(rng, len(owner), 5) * 0.6 + image[owner] * 0.4
    result = retrieval(image, text, owner)
    for k in (1, 5, 10):
        hits = [
            owner[m] in sorted(range(30), key=lambda n, m=m: -float(text[m] @ image[n]))[:k] for m in range(len(owner))
        ]
        assert result[f"t2i_r{k}"] == pytest.approx(100 * np.mean(hits), abs=1e-3)
        hits = [
            n in owner[sorted(range(len(owner)), key=lambda m, n=n: -float(text[m] @ image[n]))[:k]] for n in range(30)
        ]
        assert result[f"i2t_r{k}"] == pytest.approx(100 * np.mean(hits), abs=1e-3)


def test_a_model_that_maps_everything_to_one_point_scores_zero():
    one = np.tile([[1.0, 0.0]], (20, 1))
    result = retrieval(one, one, np.arange(20))
    assert result["t2i_r1"] == result["i2t_r1"] == 0
    assert zero_shot(one, one[:7], np.zeros(20, int))["top1"] == 0


def test_zero_shot_is_the_brute_force_argmax():
    rng = np.random.default_rng(1)
    image, classes, labels = unit(rng, 50, 4), unit(rng, 6, 4), rng.integers(0, 6, 50)
    ranked = np.argsort(-(image @ classes.T), axis=1)
    result = zero_shot(image, classes, labels)
    assert result["top1"] == pytest.approx(100 * (ranked[:, 0] == labels).mean(), abs=1e-3)
    assert result["top5"] == pytest.approx(100 * (ranked[:, :5] == labels[:, None]).any(1).mean(), abs=1e-3)


def test_class_embeddings_are_unit_means_over_templates():
    text = unit(np.random.default_rng(2), 3, 4, 8)
    made = class_embeddings(text)
    assert np.allclose(np.linalg.norm(made, axis=1), 1)
    assert np.allclose(made[1] * np.linalg.norm(text[1].mean(0)), text[1].mean(0))


def test_the_interval_is_close_to_the_binomial_one():
    hits = np.array([1.0] * 300 + [0.0] * 700)
    low, high = interval(hits)
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5 * 100
    assert low == pytest.approx(30 - half, abs=0.6)
    assert high == pytest.approx(30 + half, abs=0.6)

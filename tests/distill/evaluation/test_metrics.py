"""Retrieval and zero-shot against a brute-force ranking, ties included."""

import numpy as np
import pytest

from distill.evaluation.metrics import (
    chance_r1,
    class_embeddings,
    interval,
    retrieval,
    retrieval_chance,
    retrieval_ranks,
    zero_shot,
)


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


def test_a_caption_that_repeats_describes_every_image_that_has_it():
    """A perfect model of 3 classes on 12 class-captioned images: taking repeats for wrong answers gave R@1 = 0."""
    kind = np.arange(12) % 3
    image = np.eye(3)[kind]
    result = retrieval(image, image, np.arange(12), kind)
    assert result["t2i_r1"] == result["i2t_r1"] == 100
    assert retrieval(image, image, np.arange(12))["t2i_r1"] == 0  # what it was


def test_repeats_are_the_brute_force_ranking():
    rng = np.random.default_rng(5)
    image, owner = unit(rng, 20, 6), np.repeat(np.arange(20), 2)
    caption = rng.integers(0, 25, 40)
    text = unit(rng, 25, 6)[caption]
    result = retrieval(image, text, owner, caption)
    right = [{int(owner[j]) for j in range(40) if caption[j] == caption[m]} for m in range(40)]
    for k in (1, 5, 10):
        hits = []
        for m in range(40):
            best = max(float(text[m] @ image[n]) for n in right[m])
            hits.append(sum(float(text[m] @ image[n]) >= best for n in range(20) if n not in right[m]) < k)
        assert result[f"t2i_r{k}"] == pytest.approx(100 * np.mean(hits), abs=1e-3)
        hits = []
        for n in range(20):
            mine = [m for m in range(40) if n in right[m]]
            best = max(float(text[m] @ image[n]) for m in mine)
            hits.append(sum(float(text[m] @ image[n]) >= best for m in range(40) if m not in mine) < k)
        assert result[f"i2t_r{k}"] == pytest.approx(100 * np.mean(hits), abs=1e-3)


def test_captions_of_one_image_are_drawn_together():
    """Five captions that always agree are one observation: the interval is that of 200 images, not of 1,000 captions."""
    images = np.random.default_rng(0).random(200) < 0.3
    hits, groups = np.repeat(images, 5).astype(float), np.repeat(np.arange(200), 5)
    low, high = interval(hits, groups)
    alone = interval(images.astype(float))
    assert high - low == pytest.approx(alone[1] - alone[0], rel=0.1)
    narrow = interval(hits)
    assert (high - low) / (narrow[1] - narrow[0]) == pytest.approx(5**0.5, rel=0.15)


def test_a_paired_interval_is_of_the_difference_alone() -> None:
    """Two models with the same hits differ by nothing; one that loses the same queries in every draw differs by that."""
    ours = np.array([1.0, 0.0, 1.0, 1.0] * 25)
    assert interval(ours - ours) == (0.0, 0.0)
    assert interval(ours - 1 - ours) == (-100.0, -100.0)


def test_chance_counts_every_right_answer():
    """Against 4,000 orders drawn at random; captions that repeat have several right images, and images with more captions more."""
    owner, caption = np.array([0, 0, 1, 2, 3, 3, 4]), np.array([0, 1, 0, 2, 2, 3, 0])
    rng, found = np.random.default_rng(0), {"t2i_r1": 0.0, "i2t_r1": 0.0}
    rounds = 4000
    for _ in range(rounds):
        similarity = rng.permutation(35).reshape(7, 5).astype(np.float32)  # no ties
        ranks = retrieval_ranks(np.eye(5, dtype=np.float32), similarity, owner, caption)
        for name, rank in zip(found, ranks, strict=True):
            found[name] += float((rank < 1).mean()) * 100 / rounds
    chance = retrieval_chance(owner, caption, 5)
    assert chance["t2i_chance_r1"] == pytest.approx(found["t2i_r1"], abs=1.5)
    assert chance["i2t_chance_r1"] == pytest.approx(found["i2t_r1"], abs=1.5)
    assert chance["t2i_chance_r1"] > 100 / 5  # which it is where every caption is of one image
    assert retrieval_chance(np.arange(5), np.arange(5), 5) == {"t2i_chance_r1": 20.0, "i2t_chance_r1": 20.0}
    assert chance_r1({"images": 5} | chance) == chance["t2i_chance_r1"]
    assert chance_r1({"images": 8}) == 12.5


def test_captions_that_are_all_one_give_everything_by_chance():
    assert retrieval_chance(np.arange(6), np.zeros(6, int), 6) == {"t2i_chance_r1": 100.0, "i2t_chance_r1": 100.0}

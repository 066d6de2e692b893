"""Example searches against brute force in float64."""

import numpy as np

from distill.evaluation.examples import CAPTIONS, HITS, example_searches


def test_hits_and_ranks_are_those_of_brute_force():
    random = np.random.default_rng(0)
    image, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in random.standard_normal((2, 20, 8)))
    owner, keys = np.arange(20) // 2 * 2, [f"k{i}" for i in range(20)]
    captions = [f"c{i}" for i in range(20)]
    found = example_searches(image, text, owner, keys, captions)
    assert [item["caption"] for item in found] == ["c0", "c4", "c8", "c11", "c15", "c19"]
    assert len(found) == CAPTIONS
    for item in found:
        index = captions.index(item["caption"])
        cosines = [float(sum(a * b for a, b in zip(row, text[index], strict=True))) for row in image]
        order = sorted(range(20), key=lambda i: -cosines[i])
        assert item["hits"] == [keys[i] for i in order[:HITS]]
        assert item["own"] == keys[owner[index]]
        assert item["rank"] == order.index(owner[index]) + 1


def test_fewer_captions_than_are_shown():
    eye = np.eye(2)
    assert [item["rank"] for item in example_searches(eye, eye, np.array([0, 1]), ["a", "b"], ["x", "y"])] == [1, 1]

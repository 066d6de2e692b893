"""Caption policies: what may be drawn, how often, and what is refused."""

from collections import Counter

import numpy as np
import pytest

from distill.core.errors import UsageError
from reinforced_data.training.caption_policy import CaptionPolicy

SOURCES = ["real", "real", "synthetic:coca", "synthetic:coca#sentence", "synthetic:blip", "synthetic:coca-large", "real#sentence"]  # fmt: skip


def shares(policy, sources=SOURCES, draws=6000):
    rng = np.random.default_rng(0)
    counts = Counter(policy.draw(sources, rng) for _ in range(draws))
    return {picked: count / draws for picked, count in counts.items()}


def close(found, expected):
    assert found.keys() == expected.keys()
    assert all(abs(found[key] - expected[key]) < 0.03 for key in expected)


def test_any_is_uniform_over_whole_captions_and_over_all_with_sentences():
    close(shares(CaptionPolicy("any")), dict.fromkeys([(0,), (1,), (2,), (4,), (5,)], 1 / 5))
    close(shares(CaptionPolicy("any", sub_sentences=True)), dict.fromkeys([(n,) for n in range(7)], 1 / 7))


def test_mix_draws_sources_by_weight_and_the_longest_name_counts():
    policy = CaptionPolicy("mix", {"real": 1.0, "synthetic": 2.0, "synthetic:coca": 1.0})
    close(shares(policy), {(0,): 1 / 8, (1,): 1 / 8, (2,): 1 / 4, (4,): 1 / 4, (5,): 1 / 4})
    close(shares(CaptionPolicy("mix", {"real": 1.0})), {(0,): 0.5, (1,): 0.5})
    close(shares(CaptionPolicy("mix", {"real": 1, "synthetic": 0})), {(0,): 0.5, (1,): 0.5})
    close(shares(CaptionPolicy("mix")), {(0,): 1 / 4, (1,): 1 / 4, (2,): 1 / 6, (4,): 1 / 6, (5,): 1 / 6})
    with_sentences = CaptionPolicy("mix", {"synthetic:coca": 1}, sub_sentences=True)
    close(shares(with_sentences), {(2,): 0.5, (3,): 0.5})
    close(shares(CaptionPolicy("mix", {"synthetic": 1}), ["real", "real"]), {(0,): 0.5, (1,): 0.5})  # better than none


def test_sum_draws_one_of_each_kind_and_falls_back_to_the_kind_there_is():
    found = shares(CaptionPolicy("sum", {"synthetic:coca": 1.0}))
    close(found, {(0, 2): 0.5, (1, 2): 0.5})
    assert {pair[0] for pair in shares(CaptionPolicy("sum"))} == {0, 1}
    assert {pair[1] for pair in shares(CaptionPolicy("sum"))} == {2, 4, 5}
    close(shares(CaptionPolicy("sum"), ["real", "real"]), dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 1 / 4))
    close(shares(CaptionPolicy("sum"), ["synthetic:x"]), {(0, 0): 1.0})


def test_auto_follows_the_sources():
    assert CaptionPolicy().resolve(["real", "synthetic:x"]).name == "sum"
    assert CaptionPolicy().resolve(["real"]).name == CaptionPolicy().resolve(["synthetic:x"]).name == "any"
    assert CaptionPolicy(weights={"real": 1}).resolve(["real"]).name == "mix"
    assert CaptionPolicy("mix").resolve(["real", "synthetic:x"]).name == "mix"


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("any", {"real": 1.0}, "mix"),
        ("mix", {"coca": 1.0}, "synthetic:CAPTIONER"),
        ("mix", {"real": -1.0}, "0 or more"),
        ("mix", {"real": float("nan")}, "0 or more"),
        ("sum", {"real": 0.0}, "no positive weight"),
    ],
)
def test_tables_that_cannot_be_are_refused(name, weights, words):
    with pytest.raises(UsageError, match=words):
        CaptionPolicy(name, weights)

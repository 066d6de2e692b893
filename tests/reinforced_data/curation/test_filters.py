"""Every registered filter, one by one; and score, clusters, balance and mix against truths worked out another way."""

import itertools
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from distill.core.errors import UsageError
from reinforced_data.curation import filter as filter_module
from reinforced_data.curation.filter import FILTERS, parse_filter
from reinforced_data.curation.filters.clusters import between, shares
from reinforced_data.curation.filters.mix import soft_cap_sample, standardised
from reinforced_data.sample import Caption
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.curation.planted import PlantedTeacher, planted_set, select, unit_vectors
from tests.reinforced_data.stubs import ListSource, make_set, samples, two_teachers

# A new filter is tested by adding a line here, and one to READS.
EXAMPLES = {
    "score": "score:keep=0.5",
    "clusters": "clusters:k=4,keep=0.5",
    "balance": "balance:cap=2,concepts={concepts}",
    "duplicates": "duplicates:min=0.7",
    "decontaminate": "decontaminate:against={other},by=all",
    "mix": "mix:size=0.5,batch=2",
}
# Whose image embeddings the example of each filter reads, (set, teacher), and which filters put rows side by side.
READS = {
    "score": [("set", "alpha")],
    "clusters": [("set", "alpha")],
    "balance": [],
    "duplicates": [("set", "alpha")],
    "decontaminate": [("set", "alpha"), ("other", "alpha")],
    "mix": [("set", "alpha"), ("set", "open_clip:X-1/y")],
}
STACKS = {"clusters", "duplicates", "decontaminate"}
STORED = {"views_per_image": 3, "view_preset": "mobileclip", "embed_dtype": "fp16", "shard_size": 5, "batch_size": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An ordinary set of 23 samples with two teachers, an evaluation set, and a list of concepts."""
    folder = tmp_path_factory.mktemp("filters")
    make_set(ListSource(samples(23)), two_teachers(), folder / "set", **STORED)
    make_set(ListSource(samples(5, first=20)), two_teachers(), folder / "other", **STORED)
    (folder / "concepts.txt").write_text("group 0\ngroup 1\ntext 1\n")
    return folder


def example(name, world):
    return EXAMPLES[name].format(concepts=world / "concepts.txt", other=world / "other")


@pytest.mark.parametrize("name", list(FILTERS))
def test_every_filter(name, world, monkeypatch):
    data, text = ReinforcedData(world / "set"), example(name, world)
    outcome, kept = select(data, text, seed=3)
    assert 0 < kept.sum() < 23
    for mask in outcome.dropped.values():
        assert mask.shape == (23,)
        assert mask.dtype == bool
    assert all(reason and not reason.endswith(".") for reason in outcome.dropped)
    if outcome.scores is not None:
        assert outcome.scores.shape == (23,)
        assert outcome.score_name
    monkeypatch.setattr(filter_module, "BLOCK_ROWS", 4)
    again, kept_again = select(ReinforcedData(world / "set"), text, seed=3)
    assert (kept == kept_again).all()  # neither the block size nor what was read before matters
    assert list(again.dropped) == list(outcome.dropped)


@pytest.mark.parametrize("name", list(FILTERS))
def test_every_filter_says_what_memory_a_million_samples_take(name):
    assert re.search(r"\b\d+ MB per\s+million", FILTERS.get(name).__doc__)


@pytest.mark.parametrize("name", list(FILTERS))
def test_embeddings_are_read_once_each_and_a_block_at_a_time(name, world, monkeypatch):
    """Every image embedding that a filter needs is read exactly once; those it stacks come to a block, never to more."""
    monkeypatch.setattr(filter_module, "BLOCK_ROWS", 4)
    stacked, reads = [], Counter()
    real_stack, real_read = np.stack, ReinforcedData.image_embeds
    monkeypatch.setattr(np, "stack", lambda arrays, **more: stacked.append(len(arrays)) or real_stack(arrays, **more))

    def counted(self, index, teacher):
        reads[self.folder.name, teacher, index] += 1
        return real_read(self, index, teacher)

    monkeypatch.setattr(ReinforcedData, "image_embeds", counted)
    select(ReinforcedData(world / "set"), example(name, world))
    rows = {"set": 23, "other": 5}
    assert reads == {(place, teacher, row): 1 for place, teacher in READS[name] for row in range(rows[place])}
    assert max(stacked, default=0) == (4 if name in STACKS else 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("skore:keep=0.5", ["skore", "score"]),
        ("score:keap=0.5", ["keap", "keep"]),
        ("score:keep=1.5", ["keep", "1.5"]),
        ("score:keep=0", ["keep"]),
        ("score:keep=many", ["keep", "many"]),
        ("score:keep=0.5,keep=0.6", ["keep", "twice"]),
        ("score:keep", ["key=value"]),
        ("score:captions=worst,keep=0.5", ["captions", "best"]),
        ("clusters:k=4", ["keep", "missing"]),
        ("balance", ["cap", "missing"]),
        ("duplicates:min=2", ["min"]),
        ("decontaminate:min=0.9", ["against", "missing"]),
        ("mix:penalty=-1", ["penalty"]),
        ('mix:weights="a=1', ["cannot read"]),
    ],
)
def test_wrong_settings_are_named(text, words):
    with pytest.raises(UsageError) as caught:
        parse_filter(text)
    assert all(word in str(caught.value) for word in words)


def test_quoted_values_may_hold_commas():
    _, made = parse_filter('decontaminate:against="rendered:train=9,eval=5", bits=2')
    assert (made.against, made.bits) == ("rendered:train=9,eval=5", 2)


def test_wrong_calls_on_a_set(world, tmp_path):
    data = ReinforcedData(world / "set")
    for text, word in [
        ("score:teacher=alhpa,keep=0.5", "alpha"),
        ("score", "min=COSINE"),
        ("clusters:k=24,keep=0.5", "smaller k"),
        (f"balance:cap=1,concepts={tmp_path / 'none.txt'}", "none.txt"),
        ("mix:weights=alpha", "NAME=WEIGHT"),
        ("mix:weights=alpha=x", "NAME=WEIGHT"),
        ('mix:weights="#1=1"', "#1"),
        (f"decontaminate:against={world / 'set'}", "itself"),
        ("decontaminate:against=./nowhere-at-all", "nowhere-at-all"),
    ]:
        with pytest.raises(UsageError, match=word):
            select(data, text)


# --- score


def scored_set(tmp_path, count=40, seed=5):
    rng = np.random.default_rng(seed)
    images, texts = unit_vectors(count, 6, seed), unit_vectors(count * 3, 6, seed + 1)
    owners = {}
    for i in range(count):
        numbers = [int(n) for n in rng.permutation(count * 3)[: 1 + i % 3]]
        owners[i] = [Caption(f"c #{n}", "real" if k == i % 2 else "synthetic:x") for k, n in enumerate(numbers)]
    data = planted_set(tmp_path / "s", [PlantedTeacher(images, texts)], captions=owners)
    return data, images.astype(np.float32).astype(np.float64), texts.astype(np.float32).astype(np.float64), owners


@pytest.mark.parametrize("captions", ["best", "mean", "real"])
def test_scores_equal_cosines_worked_out_by_hand(tmp_path, captions):
    data, images, texts, owners = scored_set(tmp_path)
    outcome, kept = select(data, f"score:min=0.1,captions={captions}")
    for i in range(40):
        cosines = {c: float(images[i] @ texts[int(c.text[3:])]) for c in owners[i]}
        if captions == "real":
            cosines = {c: value for c, value in cosines.items() if c.source == "real"}
        values = list(cosines.values())
        if not values:
            assert np.isnan(outcome.scores[i])
            assert outcome.dropped["no real caption"][i]
            continue
        truth = sum(values) / len(values) if captions == "mean" else max(values)
        assert outcome.scores[i] == pytest.approx(truth, abs=1e-6)
        assert kept[i] == (truth >= 0.1)


def test_views_are_averaged(world):
    data = ReinforcedData(world / "set")
    outcome, _ = select(data, "score:min=0,teacher=alpha")
    u, v = data.image_embeds(7, "alpha").astype(np.float64), data.text_embeds(7, "alpha").astype(np.float64)
    mean = (u / np.linalg.norm(u, axis=1)[:, None]).mean(0)
    truth = (v @ mean / np.linalg.norm(v, axis=1) / np.linalg.norm(mean)).max()
    assert outcome.scores[7] == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("keep", ["0.15", "0.2", "0.07", "1", "0.3333333333333333"])
def test_the_fraction_is_exact_and_holds_the_best(tmp_path, keep):
    data, *_ = scored_set(tmp_path)
    outcome, kept = select(data, f"score:keep={keep}")
    assert kept.sum() == int(Fraction(keep) * 40)
    if 0 < kept.sum() < 40:
        assert outcome.scores[kept].min() >= outcome.scores[~kept].max()


def test_equal_scores_go_by_key(tmp_path):
    keys = ["f", "b", "d", "a", "c", "e"]
    data = planted_set(tmp_path / "s", [PlantedTeacher(np.ones((6, 4)))], keys=keys)
    _, kept = select(data, "score:keep=0.5")
    assert sorted(key for key, k in zip(keys, kept, strict=True) if k) == ["a", "b", "c"]


# --- clusters


def test_cluster_pruning_against_the_formulas(tmp_path):
    """Well separated groups: the clusters are known, so quotas and members follow from the paper's formulas alone."""
    rng = np.random.default_rng(1)
    sizes, spread = [30, 24, 12], [0.05, 0.25, 0.15]
    axes = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    vectors = np.concatenate([axes[j] + spread[j] * rng.normal(size=(m, 8)) for j, m in enumerate(sizes)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = np.repeat([0, 1, 2], sizes)
    order = rng.permutation(len(vectors))
    vectors, truth = vectors[order].astype(np.float32), truth[order]
    data = planted_set(tmp_path / "s", [PlantedTeacher(vectors)])
    outcome, kept = select(data, "clusters:k=3,keep=0.4,temperature=0.2", seed=2)

    means = np.stack([vectors[truth == j].astype(np.float64).mean(0) for j in range(3)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    distance = 1 - np.einsum("nd,nd->n", vectors.astype(np.float64), means[truth])
    d_intra = [distance[truth == j].mean() for j in range(3)]
    d_inter = [np.mean([1 - means[j] @ means[i] for i in range(3) if i != j]) for j in range(3)]
    complexity = np.exp(np.array(d_inter) * np.array(d_intra) / 0.2)
    total = int(0.4 * 66)
    wanted = complexity / complexity.sum() * total
    best = min(
        (x for x in itertools.product(*(range(1, m + 1) for m in sizes)) if sum(x) == total),
        key=lambda x: ((np.array(x) - wanted) ** 2).sum(),
    )
    assert np.allclose(outcome.scores, distance, atol=1e-6)
    assert kept.sum() == total
    for j in range(3):
        members = np.flatnonzero(truth == j)
        farthest = members[np.argsort(-distance[members])][: best[j]]
        assert sorted(np.flatnonzero(kept & (truth == j))) == sorted(farthest)
    assert sum(cluster["kept"] for cluster in outcome.facts["clusters"]) == total


def test_complexity_is_of_the_nearest_centroids_only():
    centroids = np.stack([[np.cos(a), np.sin(a)] for a in (0.0, 0.1, 0.3, 2.0)])
    assert between(centroids, 1) == pytest.approx([1 - np.cos(d) for d in (0.1, 0.1, 0.2, 1.7)])
    assert between(centroids, 99)[0] == pytest.approx(np.mean([1 - np.cos(d) for d in (0.1, 0.3, 2.0)]))
    assert shares(np.array([1000.0, 1001.0]), 1.0) == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])


# --- balance


def test_balance_against_metaclip_by_substrings(tmp_path):
    """Counts and probabilities by plain substring search, as published; the draw's own probability by its mean."""
    rng = np.random.default_rng(0)
    words = ["dog", "red car", "hot dog", "cat", "st. louis"]
    captions = []
    for i in range(300):
        said = [word for word in words if rng.random() < (0.7, 0.1, 0.05, 0.02, 0.02)[words.index(word)]]
        captions.append([Caption(f"A {', a '.join(said)} here, dogs. #{i}".capitalize())])
    (tmp_path / "list.txt").write_text("\n".join(words) + "\n# a comment\n\nDog\n")
    data = planted_set(tmp_path / "s", [PlantedTeacher(unit_vectors(300, 4))], captions=captions)
    spaced = [" ".join(c[0].text.lower().replace(",", " , ").replace(".", " . ").split()) for c in captions]
    entries = [word.replace(".", " .") for word in words]
    mentions = np.array([[f" {entry} " in f" {text} " for entry in entries] for text in spaced])
    counts = mentions.sum(0)
    chance = 1 - np.prod(np.where(mentions, 1 - np.minimum(1, 20 / np.maximum(counts, 1)), 1), axis=1)
    outcome, kept = select(data, f"balance:cap=20,concepts={tmp_path / 'list.txt'}")
    assert np.allclose(outcome.scores, chance)
    assert (outcome.dropped["mentions no entry of the list"] == ~mentions.any(1)).all()
    assert {f["entry"]: f["before"] for f in outcome.facts["most_common"]} == {
        w: c for w, c in zip(words, counts.tolist(), strict=True) if c
    }
    assert kept[mentions[:, 3] | mentions[:, 4]].all()  # entries under the cap lose nobody
    means = np.mean([select(data, f"balance:cap=20,concepts={tmp_path / 'list.txt'}", seed=s)[1] for s in range(60)], 0)
    assert abs(means.sum() - chance.sum()) < 4 * np.sqrt((chance * (1 - chance)).sum() / 60)
    wider = select(data, f"balance:cap=60,concepts={tmp_path / 'list.txt'}")[1]
    assert (wider | ~kept).all()  # nested


def test_balance_reads_the_captions_asked_for(tmp_path):
    captions = [[Caption("a dog #0"), Caption("a cat #0", "synthetic:x")], [Caption("nothing #1")]]
    data = planted_set(tmp_path / "s", [PlantedTeacher(np.eye(2))], captions=captions)
    for wanted, expected in {"real": ["dog"], "synthetic": ["cat"], "all": ["cat", "dog"]}.items():
        outcome, kept = select(data, f"balance:cap=5,captions={wanted}")  # the list that comes along
        assert sorted(fact["entry"] for fact in outcome.facts["most_common"]) == expected
        assert kept.tolist() == [True, False]
    assert select(data, "balance:cap=5,unmatched=keep")[1].all()


# --- mix


def test_mixed_scores_are_weighted_standard_scores(tmp_path):
    a, b = (
        PlantedTeacher(unit_vectors(30, 4), unit_vectors(30, 4, 1), "a"),
        PlantedTeacher(unit_vectors(30, 5, 2), unit_vectors(30, 5, 3), "b:c/d"),
    )
    data = planted_set(tmp_path / "s", [a, b])
    raw = [(t.images.double() * t.texts.double()).sum(1).numpy() for t in (a, b)]
    z = [(x - x.mean()) / x.std() for x in raw]
    outcome, kept = select(data, 'mix:weights="a=0.7;b:c/d=-2"')
    assert np.allclose(outcome.scores, 0.7 * z[0] - 2 * z[1], atol=1e-5)
    assert outcome.repeats.sum() == 30
    assert ((outcome.repeats > 0) == kept).all()
    assert np.allclose(select(data, "mix")[0].scores, z[0] + z[1], atol=1e-5)


def test_what_has_no_score_counts_as_the_lowest():
    assert standardised(np.array([1.0, np.nan, 3.0])).tolist() == [-1, -1, 1]
    assert standardised(np.array([np.nan, np.nan])).tolist() == [0, 0]
    assert standardised(np.array([2.0, 2.0])).tolist() == [0, 0]


def test_soft_cap_sampling_draws_as_published():
    """A round is drawn like numpy's choice without replacement from the softmax; the penalty then works on the logits."""
    logits = np.array([1.0, 0.0, -1.0, 0.5])
    p = np.exp(logits) / np.exp(logits).sum()
    trials = 6000
    ours = np.mean([soft_cap_sample(logits, 2, 0.15, 2, seed) for seed in range(trials)], 0)
    pairs = itertools.permutations(range(4), 2)  # successive sampling: the exact inclusion probabilities
    truth = np.zeros(4)
    for i, j in pairs:
        truth[[i, j]] += p[i] * p[j] / (1 - p[i])
    assert np.abs(ours - truth).max() < 4 * 0.5 / np.sqrt(trials)
    # Drawn one at a time with an enormous penalty, everything comes round once before anything comes twice.
    assert soft_cap_sample(logits, 9, 1e6, 1, 0).tolist() in [[2 + (k == i) for k in range(4)] for i in range(4)]
    # Without a penalty the counts follow the softmax.
    free = soft_cap_sample(logits, 20000, 0.0, 1, 1) / 20000
    assert np.abs(free - p).max() < 4 * 0.5 / np.sqrt(20000)
    # With one, repeats even out: FLYT's equilibrium has equal penalised logits, logit_i - penalty * count_i.
    capped = soft_cap_sample(logits, 4000, 0.15, 1, 2)
    assert np.ptp(logits - 0.15 * capped) < 2.5
    assert (soft_cap_sample(logits, 10, 0.15, 3, 5) == soft_cap_sample(logits, 10, 0.15, 3, 5)).all()

"""The decoding loops against brute force, a table of probabilities, and transformers' own generate."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch

from distill.core.errors import UsageError
from distill.core.strict import parse
from distill.core.torch_compat import ensure_torchvision
from teachers.captioner import CaptionSettings
from teachers.captioners.parts.decoding import Beam, Continuation, Markers, decode_tokens

START, END, V = 0, 1, 6


class Table:
    """A next-token model whose logits are random numbers of (image, prefix); counts its calls."""

    def __init__(self, vocabulary: int = V, spread: float = 1.5) -> None:
        self.vocabulary, self.spread = vocabulary, spread
        self.calls = 0

    def row(self, image: int, prefix: list[int]) -> torch.Tensor:
        number = hash((image, *prefix)) % (2**31)  # of integers: the same in every process
        generator = torch.Generator().manual_seed(number)
        return torch.randn(self.vocabulary, generator=generator, dtype=torch.float64) * self.spread

    def __call__(self, tokens: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        pairs = zip(tokens.tolist(), owner.tolist(), strict=True)
        return torch.stack([self.row(image, prefix) for prefix, image in pairs])


def brute_force(step: Table, image: int, limit: int, least: int) -> list[tuple[float, list[int]]]:
    """Every caption with its mean log-probability, best first."""
    found = []
    for length in range(limit + 1):
        for words in itertools.product([t for t in range(step.vocabulary) if t not in (START, END)], repeat=length):
            made = list(words) + ([END] if length < limit else [])
            if END in made and len(words) < least:
                continue
            prefix, total = [START], 0.0
            for token in made:
                total += float(step.row(image, prefix).log_softmax(-1)[token])
                prefix.append(token)
            found.append((total / len(made), list(words)))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("least", [0, 2])
def test_a_beam_as_wide_as_the_tree_finds_the_best_captions(least: int) -> None:
    step, limit = Table(), 4
    wide = CaptionSettings(captions=5, beams=1000, max_tokens=limit, min_tokens=least, top_p=None)
    found = decode_tokens(step, wide, [0, 0, 0], Markers(START, END, 77), "cpu")
    for image in range(3):
        assert found[image] == [words for _, words in brute_force(step, image, limit, least)[:5]]


def test_a_narrow_beam_is_the_textbook_one() -> None:
    """Against a plain reading of beam search: extend all, rank, finish what ends among the k best, keep k."""
    step, k, limit = Table(12, 2.5), 3, 6
    for image in range(6):
        live, done = [(0.0, [START])], []
        for place in range(limit):
            grown = []
            for total, prefix in live:
                log_probs = step.row(image, prefix).log_softmax(-1)
                grown += [(total + float(log_probs[t]), [*prefix, t]) for t in range(12) if t != START]
            grown.sort(reverse=True)
            for total, made in grown[:k]:
                if made[-1] == END or place + 1 == limit:
                    done.append((total / (place + 1), made[1:-1] if made[-1] == END else made[1:]))
            done = sorted(done, reverse=True)[:k]
            live = [item for item in grown[: 2 * k] if item[1][-1] != END][:k]
            if len(done) == k and live[0][0] / (place + 1) <= done[-1][0]:
                break
        decode = CaptionSettings(captions=k, beams=k, max_tokens=limit, min_tokens=0, top_p=None)
        shifted = lambda tokens, owner, image=image: step(tokens, owner + image)  # noqa: E731
        assert decode_tokens(shifted, decode, [0], Markers(START, END, 77), "cpu") == [[words for _, words in done]]


def test_greedy_takes_the_most_probable_token() -> None:
    step = Table()
    [[made]] = decode_tokens(
        step, CaptionSettings(captions=1, temperature=0, max_tokens=7), [3], Markers(START, END, 77), "cpu"
    )
    prefix = [START]
    for place in range(7):
        row = step.row(0, prefix)
        row[START] = -math.inf
        if place < 5:
            row[END] = -math.inf
        token = int(row.argmax())
        if token == END:
            break
        prefix.append(token)
    assert made == prefix[1:]
    assert len(made) >= 5


def test_sampling_follows_temperature_and_nucleus() -> None:
    """Frequencies of the first token over many seeds against the truncated distribution computed by hand."""
    logits = torch.tensor([[-9.0, -9.0, 2.0, 1.0, 0.5, 0.0]], dtype=torch.float64)
    step = lambda tokens, owner: logits.repeat(len(tokens), 1).clone()  # noqa: E731
    decode = CaptionSettings(captions=4000, top_p=0.8, temperature=0.7, max_tokens=1, min_tokens=1)
    [captions] = decode_tokens(step, decode, [5], Markers(START, END, 77), "cpu")
    weights = [math.exp(v / 0.7) for v in (2.0, 1.0, 0.5, 0.0)]
    probs = [w / sum(weights) for w in weights]
    assert probs[0] < 0.8 < probs[0] + probs[1]  # the nucleus is {2, 3}
    counts = Counter(token for [token] in captions)
    assert set(counts) == {2, 3}
    expected = probs[0] / (probs[0] + probs[1])
    assert abs(counts[2] / 4000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_an_image_s_captions_depend_on_its_seed_alone() -> None:
    step, decode, markers = Table(), CaptionSettings(captions=3, max_tokens=9, min_tokens=1), Markers(START, END, 77)
    same = lambda tokens, owner: step(tokens, owner * 0)  # noqa: E731 - every image looks alike
    together = decode_tokens(same, decode, [7, 8, 9, 7], markers, "cpu")
    assert together[0] == together[3] != together[1]
    for seed, captions in zip([7, 8, 9], together, strict=False):
        assert decode_tokens(same, decode, [seed], markers, "cpu") == [captions]
    more = decode_tokens(same, CaptionSettings(captions=5, max_tokens=9, min_tokens=1), [8], markers, "cpu")
    assert more[0][:3] == together[1]
    other = decode_tokens(same, CaptionSettings(captions=3, max_tokens=9, min_tokens=1, seed=1), [7], markers, "cpu")
    assert other[0] != together[0]
    assert CaptionSettings(seed=1).image_seed(23) != CaptionSettings(seed=12).image_seed(3)


def test_length_limits() -> None:
    never = torch.zeros(V, dtype=torch.float64)
    never[END] = -50.0
    always = -never
    for beams in (1, 2):
        shared = {"captions": 1, "beams": beams, "top_p": None}
        step = lambda tokens, owner: never.repeat(len(tokens), 1)  # noqa: E731
        long = decode_tokens(step, CaptionSettings(max_tokens=200, **shared), [0], Markers(START, END, 16), "cpu")
        assert len(long[0][0]) == 15  # the context holds the start marker too
        short = decode_tokens(step, CaptionSettings(max_tokens=7, **shared), [0], Markers(START, END, 16), "cpu")
        assert len(short[0][0]) == 7
        step = lambda tokens, owner: always.repeat(len(tokens), 1)  # noqa: E731
        least = decode_tokens(step, CaptionSettings(min_tokens=4, **shared), [0], Markers(START, END, 16), "cpu")
        assert len(least[0][0]) == 4
        assert START not in least[0][0]


def test_finished_captions_are_computed_no_longer() -> None:
    rows = []

    def step(tokens: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        rows.append(len(tokens))
        logits = torch.zeros(len(tokens), V, dtype=torch.float64)
        logits[owner == 0, END] = 99.0 if tokens.shape[1] > 2 else 0.0
        logits[owner == 1, END] = 99.0 if tokens.shape[1] > 5 else -99.0
        return logits

    decode_tokens(step, CaptionSettings(captions=2, min_tokens=2), [0, 1], Markers(START, END, 77), "cpu")
    assert rows == [4, 4, 4, 2, 2, 2]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"captions": 0}, "captions"),
        ({"beams": 0}, "beams"),
        ({"beams": 2, "captions": 3}, "one caption per beam"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": -1.0}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 80}, "min_tokens"),
    ],
)
def test_values_that_make_no_sense_are_named(values: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse(CaptionSettings, values, "captioning").checked()
    assert CaptionSettings(captions=2, beams=2).checked().top_p is None


def test_beam_search_and_greedy_agree_with_transformers() -> None:
    """The same tiny decoder through our loop and through transformers' generate."""
    ensure_torchvision()
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=24, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1, pad_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # so that it has opinions

    def step(tokens: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        shown = tokens.clone()
        shown[:, 0] = owner + 2  # the "image" is the first token
        return model(input_ids=shown).logits[:, -1]

    images = 4
    first = torch.arange(images)[:, None] + 2
    shared: dict[str, Any] = {"attention_mask": torch.ones_like(first), "suppress_tokens": [0], "min_new_tokens": 3}
    for beams, captions, longest in ((1, 1, 12), (4, 3, 12), (3, 1, 20), (5, 5, 6)):
        decode = CaptionSettings(
            captions=captions, beams=beams, temperature=0.0, max_tokens=longest, min_tokens=3, top_p=None
        )
        ours = decode_tokens(step, decode, list(range(images)), Markers(0, 1, 77), "cpu")
        with torch.no_grad():
            made = model.generate(
                first, do_sample=False, num_beams=beams, num_return_sequences=captions, max_new_tokens=longest, **shared
            )
        theirs = [[t for t in row[1:] if t != 1] for row in made.tolist()]
        assert ours == [theirs[i * captions : (i + 1) * captions] for i in range(images)]


def test_a_beam_keeps_ends_among_the_best_and_stops_when_nothing_better_can_come() -> None:
    prefixes, markers = torch.tensor([[START, 5], [START, 6]]), Markers(START, END, 77)
    beam = Beam(2)
    ranked = [
        Continuation(0, END, -1.0),
        Continuation(1, 7, -2.0),
        Continuation(1, END, -3.0),
        Continuation(0, 8, -4.0),
    ]
    going = beam.advance(ranked, prefixes, markers, last=False)
    assert going == [Continuation(1, 7, -2.0), Continuation(0, 8, -4.0)]
    assert beam.best(2) == [[5]]  # the end that came third is no caption: two continuations were better
    prefixes = torch.tensor([[START, 6, 7], [START, 5, 8]])
    ranked = [Continuation(0, END, -2.1), Continuation(0, 9, -2.2), Continuation(1, 9, float("-inf"))]
    # Kept are -1.0 / 2 and -2.1 / 3; the best prefix, at -2.2 / 3, beats neither.
    assert beam.advance(ranked, prefixes, markers, last=False) == []
    assert beam.best(2) == [[5], [6, 7]]


def test_a_beam_fills_up_with_impossible_prefixes_and_ends_everything_at_the_last_step() -> None:
    prefixes, markers = torch.tensor([[START], [START]]), Markers(START, END, 77)
    beam = Beam(2)
    ranked = [Continuation(0, 5, -1.0), Continuation(1, 5, float("-inf"))]
    going = beam.advance(ranked, prefixes, markers, last=False)
    assert going[0] == ranked[0]
    assert (len(going), going[1].log_prob) == (2, float("-inf"))
    assert beam.advance([Continuation(0, 6, -3.0)], torch.tensor([[START, 5]]), markers, last=True) == []
    assert beam.best(2) == [[5, 6]]

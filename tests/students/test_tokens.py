"""Remembered tokens are the tokenizer's own, whoever asks and in whatever company."""

import pickle

import pytest
import torch

from students.tokenizer import RememberedTokens, load_tokenizer

CAPTIONS = [
    "a dog", "", "A dog &amp; a cat", "zwölf Boxkämpfer", "word " * 100, "a dog", "!", "  spaces\tand\nlines ",
]  # fmt: skip


class Padded:
    """A tokenizer that fills with 7, begins with 1 and counts what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts, context_length):
        self.asked += texts
        rows = [[1, *map(ord, text)][:context_length] for text in texts]
        return torch.tensor([row + [7] * (context_length - len(row)) for row in rows])


@pytest.mark.parametrize("length", [5, 16, 77])
def test_tokens_are_the_tokenizers(length):
    tokenizer = load_tokenizer(None, length)
    remembered = RememberedTokens(tokenizer, length)
    for captions in (CAPTIONS, CAPTIONS[::-1], CAPTIONS[2:3]):
        found = remembered(captions)
        assert found.dtype == torch.int64
        assert torch.equal(found, tokenizer(captions, context_length=length))


def test_any_filling_and_a_caption_once():
    tokenizer = Padded()
    remembered = RememberedTokens(tokenizer, 6)
    texts = ["ab", "abcdefgh", "\x07\x07", "ab", ""]
    for _ in range(2):
        assert torch.equal(remembered(texts), Padded()(texts, 6))
    assert tokenizer.asked == ["ab", "abcdefgh", "\x07\x07", ""]


def test_memory_is_bounded_and_stays_behind_when_the_thing_travels():
    remembered = RememberedTokens(Padded(), 6, most=3)
    remembered([f"{n}" for n in range(10)])
    assert len(remembered._rows) == 3
    copy = pickle.loads(pickle.dumps(remembered))
    assert copy._rows == {}
    assert torch.equal(copy(["9", "x"]), remembered(["9", "x"]))


def test_clips_tokenizer_travels():
    remembered = RememberedTokens(load_tokenizer(None, 16), 16)
    assert torch.equal(pickle.loads(pickle.dumps(remembered))(CAPTIONS), remembered(CAPTIONS))

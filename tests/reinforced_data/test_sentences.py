"""Sentences of captions: cut where a reader would, whole where a full stop is part of a word or number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinforced_data.sentences import sub_sentences


@pytest.mark.parametrize(
    "parts",
    [
        ["A dog runs in the sun.", "The grass is green!", "Is it a puppy?"],
        ["It is 3.5 m long.", "The No. 7 bus is red."],
        ["Dr. Smith waves the U.S. flag at St. Mary's."],
        ["He saw J. R. Smith, e.g. at work, i.e. near Mt. Fuji.", "She did not."],
        ["The clock shows 5 p.m.", "A man waits."],
        ["The clock shows 5 p.m. on a wall."],
        ["She waits... and waits.", 'He says "Stop."', "They stop."],
        ["A cat vs. a dog.", "They fight."],
        ["The answer is no.", "He leaves with fig. 3 in hand."],
        ["A man (in red.)", "A woman."],
        ["no full stop at all"],
        ["一只狗在跑。", "草是绿色的。"],
        ["First paragraph", "Second paragraph"],
    ],
)
def test_sentences(parts):
    gap = "\n\n" if parts[0] == "First paragraph" else "" if "。" in parts[0] else " "
    assert sub_sentences(gap.join(parts)) == parts


def test_nothing_gives_nothing():
    assert sub_sentences("") == sub_sentences(" . … !? ") == []


@given(st.text(max_size=200))
def test_no_letter_is_lost_or_moved(text):
    letters = lambda s: "".join(c for c in s if c.isalnum())  # noqa: E731
    assert letters("".join(sub_sentences(text))) == letters(text)

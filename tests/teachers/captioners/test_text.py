"""Cleaning, joining and trimming of captions, against tables."""

import pytest

from teachers.captioners.parts.text import clean_caption, join_pieces, sentences, whole_sentences

SENTENCES = [
    ["A coin of the U.S. mint lies on a table."],
    ["A 3.5 inch disk.", "It is blue."],
    ["Mr. Smith waves.", "A dog runs."],
    ["Fruit, e.g. apples, in a bowl."],
    ["a cat sits on a mat.", "a dog barks."],
    ["The store opens at 9 a.m. on Monday.", "It is closed."],
    ["Made in the U.S.", "The label says so."],
    ["The U.S. Army band plays."],
    ["Dr. J. R. Watson and Mrs. Hudson talk."],
    ["What is it?", "a bird!", "it sings."],
    ["Player No. 7 scores."],
    ["Is it a cat?", "No.", "It is a dog."],
    ["a sign reads \"Stop.\"", "Cars wait."],
    ["he waits ... and waits."],
    ["he waits...", "Then he goes."],
    ["visit www.example.com for more."],
    ["version 1.2.3 of the app (beta).", "New icons."],
    ["St. Paul's cathedral, approx. 111 m high."],
    ["Cars, buses, etc. in a street.", "Rain falls."],
    ["I and I.", "We go."],
    ["a house at 5 p.m. in winter"],
    ["the year is 1999.", "a party."],
    ["a cup of tea.", "In the back a kettle."],
    ["she works at Acme Inc. in town.", "They make anvils."],
    ["a man called Ph.D. student."],
    ["Öl auf Leinwand."],
    ["a dog lies in the sun.", "a cat sat.", "a fig.", "it is 5 cm.", "no."],
    ["a 6 ft. tall man.", "see fig. 3 of vol. 2 for more."],
]  # fmt: skip


@pytest.mark.parametrize("parts", SENTENCES, ids=lambda parts: " | ".join(parts)[:40])
def test_sentences_end_where_they_end(parts: list[str]) -> None:
    assert sentences(" ".join(parts)) == parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat on a mat. a dog with a", "a cat on a mat."),
        ("a cat on a mat. a dog.", "a cat on a mat. a dog."),
        ("a cat on a mat", "a cat on a mat"),
        ("the U.S. flag and a 3.5 m pole with", "the U.S. flag and a 3.5 m pole with"),
        ("a 3.5 m pole. made by Mr.", "a 3.5 m pole."),
        ("it is 5 p.m. in", "it is 5 p.m. in"),
        ("made in the U.S.", "made in the U.S."),
        ("", ""),
        ("...", "..."),
        ("  spaces \n and lines.  a tail", "spaces and lines."),
    ],
)
def test_only_an_unfinished_sentence_is_dropped(text: str, expected: str) -> None:
    assert whole_sentences(text) == expected


def test_at_most_so_many_sentences() -> None:
    assert whole_sentences("One. Two. Three", most=1) == "One."
    assert whole_sentences("One. Two. Three", most=5) == "One. Two."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<start_of_text>a cat<end_of_text>", "a cat"),
        ("[CLS] a cat [SEP] [PAD] [PAD]", "a cat"),
        ("<|startoftext|> a\tcat \x00 sits\n<|endoftext|>", "a cat sits"),
        ("<s>a <b> cat</s>", "a <b> cat"),
        ("<end_of_text>", ""),
    ],
)
def test_markers_and_control_characters_go(text: str, expected: str) -> None:
    assert clean_caption(text) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ("a cat . a dog . ", "a cat. a dog."),
        ("the u . s . coin , a 3 . 5 inch disk ", "the u.s. coin, a 3.5 inch disk"),
        ("in 2 0 1 5 , 1 , 5 0 0 people ", "in 2015, 1,500 people"),
        ("a dog 's tail isn 't long ", "a dog's tail isn't long"),
        ("mr . smith , e . g . a man ", "mr. smith, e.g. a man"),
        ("a black - and - white cat ( small ) ", "a black-and-white cat (small)"),
        ("what ? a bird !", "what? a bird!"),
    ],
)
def test_pieces_of_clip_s_tokenizer_are_joined(pieces: str, expected: str) -> None:
    assert join_pieces(pieces) == expected


def test_joining_undoes_clip_s_tokenizer() -> None:
    """Through open_clip's real tokenizer and back."""
    from distill.core.clip.model import import_open_clip

    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    for text in ("the u.s. coin, a 3.5 inch disk.", "mr. smith's dog isn't here!", "a cat (small) in 1999. a dog."):
        assert join_pieces(tokenizer.decode(tokenizer.encode(text))) == text
        assert whole_sentences(join_pieces(tokenizer.decode(tokenizer.encode(text + " and a")))) in (
            text,
            text + " and a",
        )

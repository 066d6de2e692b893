"""What a few captions show, of sentences written by hand in several languages."""

import pytest

from reinforced_data.captions_look import remarks

ENGLISH = [
    "A black dog runs over the green grass with a ball.",
    "Two men are standing on the street.",
    "A girl in a red coat looks at her brother.",
    "The cat is asleep on an old chair.",
] * 3
SHOP = ["Nike Air Max 90 black", "Levi's 501 jeans W32", "iPhone 15 Pro case leather", "Lego Technic 42083"] * 3


@pytest.mark.parametrize(
    ("captions", "told"),
    [
        (["Ein schwarzer Hund läuft mit dem Ball über die Wiese.", "Zwei Männer stehen vor der Tür und lachen."] * 6, "German"),
        (["Un chien noir court dans l'herbe avec une balle.", "Deux hommes sont devant le café et rient."] * 6, "French"),
        (["Un perro negro corre por el prado con una pelota.", "Dos hombres frente a los coches y su casa."] * 6, "Spanish"),
        (["黒い犬が緑の草原を走っている", "二人の男が通りに立っている"] * 6, "in Chinese or Japanese letters"),
        (["كلب أسود يجري على العشب", "رجلان يقفان في الشارع"] * 6, "in Arabic letters"),
        (["Чёрная собака бежит по траве", "Двое мужчин стоят на улице"] * 6, "in Cyrillic letters"),
    ],
)  # fmt: skip
def test_captions_in_another_language_are_said(captions, told):
    (said,) = remarks(captions, 77)
    assert said.startswith(f"the captions seem to be {told}: most published CLIPs read English alone")


def test_of_usual_captions_nothing_is_said():
    assert remarks(ENGLISH, 77) == []
    assert remarks(SHOP, 77) == []
    assert remarks(["12", "34", "a café in Zürich on the Rhine", "§"] * 4, 77) == []
    assert remarks(["Ein Hund und eine Katze"] * 3, 77) == []  # too few to say anything of


def test_captions_longer_than_the_student_reads_and_captions_that_are_all_the_same():
    long = [" ".join([sentence] * 9) for sentence in ENGLISH]  # 63 to 99 words
    assert remarks(long, 128) == []
    (said,) = remarks(long, 32)
    assert said.startswith("100 % of the captions have more words than the 32 tokens")
    half = [*long[:6], *ENGLISH[:6]]
    assert remarks(half, 32)[0].startswith("50 % of the captions")
    (said,) = remarks(["a photo "] * 9, 77)
    assert said.startswith("all of the 9 captions looked at are the same, 'a photo'")

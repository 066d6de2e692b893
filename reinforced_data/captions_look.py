"""What a few captions of a place show before anything is spent: another language, more words than are read, one text for all.

Left out: figures of a finished set (`reinforced_data.store.caption_report`), and what to do about captions (filters, captioners).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

LOOKED_AT = 64  # samples, spread evenly
_LEAST = 8  # captions; of fewer nothing is said
_WORD = re.compile(r"[^\W\d_]+")
# Words that sentences of a language can hardly do without, and that are no words of the others.
_FUNCTION_WORDS = {
    "English": "the a an and of with is are on to at by from his her its their while",
    "German": "der das und ein eine einem einen einer ist mit auf im dem den zwei von vor neben steht",
    "French": "le les un une et dans avec sur du des est au deux qui sont devant",
    "Spanish": "el los las un una y con del es sobre dos por su frente",
    "Italian": "il gli uno una e con di che su della nel sono due davanti",
    "Portuguese": "o os um uma e com do da em na no são dois por sua",
    "Dutch": "de het een en van met op zijn naar twee voor aan staat",
}
_LANGUAGES_OF = {
    word: [language for language, words in _FUNCTION_WORDS.items() if word in words.split()]
    for word in " ".join(_FUNCTION_WORDS.values()).split()
}


def remarks(captions: Sequence[str], tokens: int) -> list[str]:
    """Sentences on captions that a student or its teacher will not make of what their writer hopes.

    Args:
        captions: some of a place's, one of each of several images at least.
        tokens: that the text tower reads; more are cut.
    """
    captions = [caption for caption in captions if caption.strip()]
    if len(captions) < _LEAST:
        return []
    said = []
    if len({caption.strip() for caption in captions}) == 1:
        said.append(
            f"all of the {len(captions)} captions looked at are the same, {captions[0].strip()[:40]!r}: no image can be told from "
            "another by them; a captioner writes others (--captioner)"
        )
    if foreign := _language(captions):
        said.append(
            f"the captions seem to be {foreign}: most published CLIPs read English alone, and a teacher makes nothing of what it "
            "does not read; its own figures in the evaluation tell"
        )
    long = sum(
        len(caption.split()) > tokens - 2 for caption in captions
    )  # a word is a token at least; start and end are two
    if long * 10 > len(captions):
        said.append(
            f"{100 * long / len(captions):.0f} % of the captions have more words than the {tokens} tokens that the student reads: "
            "the rest of each is cut (student.context_length)"
        )
    return said


def _language(captions: Sequence[str]) -> str:
    """The language or script that the captions seem to be in; "" for English, and where nothing tells."""
    scripts = Counter(
        unicodedata.name(letter, "?").partition(" ")[0]
        for caption in captions
        for letter in caption
        if letter.isalpha()
    )
    if not scripts:
        return ""
    script, _ = scripts.most_common(1)[0]
    if scripts["LATIN"] * 2 < scripts.total():
        return (
            f"in {'Chinese or Japanese' if script in ('CJK', 'HIRAGANA', 'KATAKANA') else script.capitalize()} letters"
        )
    words = Counter(
        language
        for caption in captions
        for word in _WORD.findall(caption.lower())
        for language in _LANGUAGES_OF.get(word, ())
    )
    if not words:
        return ""
    language, count = words.most_common(1)[0]
    return language if language != "English" and count > 2 * words["English"] and count >= len(captions) else ""

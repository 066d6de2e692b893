"""Splitting a long caption into its sentences (DreamLIP, arXiv 2403.17007), in English and its like.

At reinforcement each sentence becomes a caption of its own, with the source of the whole and `SENTENCE` after it, so
that teachers embed it as such. Which captions are drawn in training is the business of `policy`.
"""

import re

SENTENCE = "#sentence"  # "synthetic:coca-vitl14#sentence" is a sentence out of a caption of "synthetic:coca-vitl14"

# Shortened words whose full stop seldom ends a sentence; "sun", "min" and their like are words of captions and not here.
_SHORTENED = (
    "mr mrs ms dr prof rev hon st sr jr sgt capt lt cmdr gov sen mt vs cf approx inc ltd corp dept univ ave blvd"
)
_ABBREVIATIONS = frozenset(_SHORTENED.split())
_NUMBERED = frozenset(("no", "nos", "fig", "figs", "vol", "p", "pp", "ca"))  # ... when a number follows
_END = re.compile(r"""(?:[.!?\u2026]+["'\u201d\u2019)\]]*(?=\s)|[\u3002\uff01\uff1f]|\n\s*\n)""")
_OPENERS = "\"'\u201c\u2018(["


def sub_sentences(caption: str) -> list[str]:
    """The sentences of `caption`, in order and stripped; a caption of one sentence gives that one, an empty one none.

    No cut inside a number (3.5), an abbreviation (Dr. Smith, U.S. flag, e.g. this), initials (J. R. Smith) or an
    ellipsis that the sentence goes on after.
    """
    sentences, start = [], 0
    for match in _END.finditer(caption):
        if _ends(caption, match):
            sentences.append(caption[start : match.end()].strip())
            start = match.end()
    sentences.append(caption[start:].strip())
    return [sentence for sentence in sentences if re.search(r"\w", sentence)]


def _ends(caption: str, match: "re.Match[str]") -> bool:
    """Whether the punctuation of `match` ends a sentence."""
    mark, following = match.group(), caption[match.end() :].lstrip().lstrip(_OPENERS)
    if not mark.startswith((".", "\u2026")):
        return True
    if not following:
        return True
    if following[0].islower():
        return False
    if mark.startswith(("..", "\u2026")):
        return True
    word = re.split(r"[\s(\[\"'\u201c\u2018]", caption[: match.start()])[-1]
    if re.fullmatch(r"[A-HJ-Z]", word):  # an initial: "J. Smith"; "vitamin C. The" is given up for it
        return False
    if re.fullmatch(r"[ap]\.m", word, re.IGNORECASE):
        return True
    if "." in word and re.fullmatch(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,3}", word):  # U.S, e.g, Ph.D
        return False
    if word.lower() in _NUMBERED:
        return not following[0].isdigit()
    return word.lower() not in _ABBREVIATIONS

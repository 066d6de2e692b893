"""From decoded tokens to a caption: markers stripped, word pieces joined, unfinished sentences dropped.

A sentence does not end at the full stop of an abbreviation, an initial or a number; MobileCLIP's released generator cuts
there. The rules are a table for short English captions; the splitters in libraries want downloaded models (NLTK, spaCy)
or are no longer kept (pysbd). Left out: which captions are good enough to keep, and languages other than English.
"""

import re

_MARKERS = re.compile(
    r"<\|?(?:start_of_text|end_of_text|startoftext|endoftext|image|bos|eos|pad|s|/s|unk)\|?>"
    r"|\[(?:CLS|SEP|PAD|UNK|DEC|ENC|MASK)\]",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER_END = _words(
    "mr mrs ms messrs dr prof st mt capt col gen lt sgt hon gov sen pres mme mlle vs viz e.g i.e eg ie cf approx ca est"
)
_MAY_END = _words(  # the end of a sentence only where the next word opens one; no plain words (sun, sat, fig, art)
    "etc inc ltd corp bros jr sr u.s u.k u.n u.s.a u.a.e d.c l.a n.y a.m p.m b.c a.d ph.d m.d b.a ave blvd rd hwy dept "
    "ft lb lbs oz yd jan feb apr jun jul aug sept oct nov dec tue tues thu thurs fri vol"
)
_BEFORE_NUMBER = _words("no nos nr art ch pp p sec vol fig figs")
_STARTERS = _words(
    "The A An It Its He She They There This That These Those In On At We I You Two Three One Some Several His Her Their "
    "Both Each Behind Above Below Next And But"
)
_END = re.compile(r"(?P<mark>[.!?…]+)(?P<close>[\"'”\u2019)\]]*)(?=\s|$)")


def clean_caption(text: str) -> str:
    """`text` without tokenizer markers and control characters, white space collapsed; may come out empty."""
    text = _MARKERS.sub(" ", text)
    text = _CONTROL.sub(" ", text)
    return " ".join(text.split())


def join_pieces(text: str) -> str:
    """CLIP's BPE decodes to lower-case pieces with a space after each ("the u . s . coin , 1 . 5 0 $"): join them.

    Digits are single tokens there, so a run of digits is one number again ("2 0 1 5" -> "2015"); how they stood cannot be
    known. Other text comes back with its spaces before punctuation removed.
    """
    text = " ".join(text.split())
    text = re.sub(r"(?<=\d) (?=\d)", "", text)
    text = re.sub(r"(?<=\d) ([.:]) (?=\d)", r"\1", text)
    text = re.sub(r"(?<!\d)(\d{1,3}) , (?=\d{3}(?!\d))", r"\1,", text)
    text = re.sub(r" +([.,;:!?…%)\]}]+)(?=\s|$)", r"\1", text)
    text = re.sub(r"([(\[{$£€#]) +", r"\1", text)
    text = re.sub(r"(?<=\w) +('(?:s|t|re|ve|ll|d|m)\b)", r"\1", text)
    text = re.sub(r"(?<=\w) - (?=\w)", "-", text)
    # initials and dotted abbreviations: "u. s. flag" -> "u.s. flag", "e. g. a" -> "e.g. a"
    return re.sub(r"\b([A-Za-z]\.)(?: (?=[A-Za-z]\.(?:\s|$)))", r"\1", text)


def sentences(text: str) -> list[str]:
    """The sentences of `text` in order, each with its end mark; the last may be unfinished. Empty for no text."""
    text = " ".join(text.split())
    pieces: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if _is_end(text, match):
            pieces.append(text[start : match.end()].strip())
            start = match.end()
    tail = text[start:].strip()
    return [*pieces, tail] if tail else pieces


def whole_sentences(text: str, most: int | None = None) -> str:
    """`text` without an unfinished last sentence; as it is when no sentence in it is finished.

    Args:
        text: a caption.
        most: keep at most this many sentences; None = all.
    """
    parts = sentences(text)
    if len(parts) > 1 and not _finished(parts[-1]):
        parts = parts[:-1]
    return " ".join(parts[:most])


def _finished(sentence: str) -> bool:
    match = next((m for m in _END.finditer(sentence) if m.end() == len(sentence)), None)
    return match is not None and _is_end(sentence, match)


def _is_end(text: str, match: "re.Match[str]") -> bool:
    """Whether the mark at `match`, followed by white space or the end of `text`, ends a sentence."""
    rest = text[match.end() :].lstrip()
    following = rest.split(" ", 1)[0] if rest else ""
    if match["mark"] != ".":
        return set(match["mark"]) != {"."} or not rest or following[:1].isupper()  # "..." goes on in lower case
    before = text[: match.start()].rsplit(" ", 1)[-1].lstrip("\"'“\u2018([")
    word = before.lower()
    if word in _NEVER_END:
        return False
    if not rest:
        return True
    if word in _BEFORE_NUMBER and following[:1].isdigit():
        return False
    initial = len(word) == 1 and word.isalpha() and before != "I" and not (word == "a" and following[:1].isupper())
    dotted = re.fullmatch(r"(?:[a-z]\.)+[a-z]", word) is not None
    return following in _STARTERS if initial or dotted or word in _MAY_END else True

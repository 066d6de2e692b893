"""WordPiece vocabularies (BERT's, MiniLM's) cut to a corpus.

Kept are the markers, every character of ASCII, every letter of the scripts that the corpus is written in and every other sign
that it holds, inside and at the start of a word, and the pieces that the corpus uses most; BERT's two thousand characters of other
scripts and its four hundred signs would be most of a small vocabulary. So every word in those scripts still splits into pieces; one
in another script, and a sign that the corpus lacks, becomes the marker of the unknown. A word whose pieces are all kept is split
exactly as before, since the longest piece that fits is still there; any other falls back to shorter ones.

Left out: Hugging Face tokenizers of other kinds (byte-level BPE, Unigram).
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.core.clip.folder import TOKENIZER_FILE
from distill.core.errors import UsageError
from students.vocabularies.cut import Cut, count_words, report
from students.vocabularies.word_pieces import MARKERS, OPTIONS_FILE


def cut_word_pieces(tokenizer: Any, captions: Iterable[str], size: int | None, folder: Path) -> Cut:
    """Cut a WordPiece tokenizer to captions, into `folder`, which is there and which transformers then reads.

    Args:
        tokenizer: transformers' own, of the tokenizers package.
        captions: the corpus.
        size: pieces afterwards: those that the corpus uses most, then the vocabulary's own first ones; None = those of the corpus.

    Raises UsageError where it is no WordPiece, or `size` is less than what always stays.
    """
    inner = tokenizer.backend_tokenizer
    described: dict[str, Any] = json.loads(inner.to_str())
    model = described["model"]
    if model.get("type") != "WordPiece":
        raise UsageError(
            f"A vocabulary of the kind {model.get('type')} is not cut here: CLIP's byte pairs and BERT's word pieces are. Leave "
            "student.vocabulary out."
        )
    prefix, table = model["continuing_subword_prefix"], model["vocab"]
    counts, each = count_words(captions, lambda caption: _words(inner, caption))
    met = set().union(*counts)
    scripts = {_script(letter) for letter in met if letter.isalpha()}
    markers = {str(token) for token in tokenizer.all_special_tokens}
    single = {piece: letter for piece in table if len(letter := piece.removeprefix(prefix)) == 1}
    fixed = {p for p, c in single.items() if c.isascii() or c in met or (c.isalpha() and _script(c) in scripts)}
    fixed |= markers & table.keys()
    if size is not None and size < len(fixed):
        raise UsageError(
            f"A vocabulary of word pieces has at least {len(fixed)} (markers, and characters of the captions), not {size}."
        )
    used: Counter[str] = Counter()
    for word, times in counts.items():
        for piece in _pieces(inner, word):
            used[piece] += times
    ids = sorted(table, key=table.__getitem__)
    order = sorted((piece for piece in used if piece not in fixed), key=lambda piece: (-used[piece], table[piece]))
    if size is not None:
        rest = (piece for piece in ids if piece not in fixed and piece not in used and not _unused(piece))
        order = [*order, *rest][: size - len(fixed)]
    chosen = fixed | set(order)
    kept = [piece for piece in ids if piece in chosen]
    _write(described, kept, tokenizer, folder)
    from tokenizers import Tokenizer

    cut = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    return report(
        "word pieces",
        (len(table), len(kept)),
        counts,
        each,
        lambda word: _pieces(inner, word),
        lambda word: _pieces(cut, word),
    )


def _words(inner: Any, caption: str) -> list[str]:
    text = inner.normalizer.normalize_str(caption) if inner.normalizer is not None else caption
    return [word for word, _ in inner.pre_tokenizer.pre_tokenize_str(text)]


def _script(letter: str) -> str:
    """The first word of a character's Unicode name: LATIN, CYRILLIC, CJK, ...; its category where it has no name."""
    return unicodedata.name(letter, unicodedata.category(letter)).split(" ")[0]


def _pieces(inner: Any, word: str) -> tuple[str, ...]:
    return tuple(token.value for token in inner.model.tokenize(word))


def _unused(piece: str) -> bool:
    """BERT's empty places, which no text becomes."""
    return piece.startswith("[unused")


def _write(described: dict[str, Any], kept: list[str], tokenizer: Any, folder: Path) -> None:
    """The tokenizer as it was, with other ids: in the model, its added tokens and what is put around a caption."""
    ids = {piece: index for index, piece in enumerate(kept)}
    described["model"]["vocab"] = ids
    described["added_tokens"] = [{**token, "id": ids[token["content"]]} for token in described["added_tokens"]]
    described["padding"] = described["truncation"] = None  # the caller's
    around = described.get("post_processor") or {}
    for marker in around.get("special_tokens", {}).values():
        marker["ids"] = [ids[token] for token in marker["tokens"]]
    for side in ("sep", "cls"):  # BertProcessing's
        if side in around:
            around[side] = [around[side][0], ids[around[side][0]]]
    (folder / TOKENIZER_FILE).write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    named = {name: str(getattr(tokenizer, name)) for name in MARKERS if getattr(tokenizer, name, None) is not None}
    options = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / OPTIONS_FILE).write_text(json.dumps(options, indent=2), encoding="utf-8")

"""CLIP's byte pairs cut to a corpus.

Kept are the merges that are applied most often. A merge is applied at least as often as those that build on it, so what is kept
always contains what it is built of, and a word whose merges are all kept is split exactly as CLIP splits it; any other falls back
to shorter pieces, down to bytes. Left out: the fixed cut that ships (`students.tokenizer.cut_merges`).
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.core.clip.folder import MERGES_FILE
from distill.core.clip.model import import_open_clip
from students.tokenizer import load_tokenizer, merges_file, merges_of
from students.vocabularies.cut import FIXED, Cut, Pieces, count_words, refuse_few_byte_pairs, report


def cut_byte_pairs(captions: Iterable[str], size: int | None, folder: Path) -> Cut:
    """Cut CLIP's vocabulary to captions, into a merges file in `folder`, which is there.

    Args:
        captions: the corpus.
        size: tokens afterwards: those that the corpus uses most, then CLIP's own most frequent ones; None = those of the corpus.

    Raises UsageError where `size` is less than bytes and markers take.
    """
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    full = SimpleTokenizer()
    refuse_few_byte_pairs(size)

    def words_of(caption: str) -> list[str]:
        pieces = full.pat.findall(full.clean_fn(caption))
        return ["".join(full.byte_encoder[byte] for byte in piece.encode("utf-8")) for piece in pieces]

    counts, each = count_words(captions, words_of)
    applied: Counter[tuple[str, str]] = Counter()
    for word, times in counts.items():
        for merge, often in merges_of(word, full.bpe_ranks).items():
            applied[merge] += often * times
    order = sorted(applied, key=lambda merge: (-applied[merge], full.bpe_ranks[merge]))
    if size is not None:
        order += [merge for merge in full.bpe_ranks if merge not in applied]  # in the order of their ranks
        order = order[: size - FIXED]
    file = folder / MERGES_FILE
    file.write_bytes(merges_file(set(order)))
    cut = load_tokenizer(file, full.context_length)

    return report("byte pairs", (full.vocab_size, cut.vocab_size), counts, each, _pieces(full), _pieces(cut))


def _pieces(tokenizer: Any) -> Pieces:
    return lambda word: tuple(tokenizer.bpe(word).split(" "))

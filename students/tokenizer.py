"""CLIP's byte-pair tokenizer over a merges file, and the cutting of that file to a corpus.

The tokenizer itself is open_clip's `SimpleTokenizer`; this module only chooses and makes the merges it reads. A cut
vocabulary keeps CLIP's merges that the corpus's words use, in CLIP's order, so those words are split exactly as CLIP
splits them, and any other word falls back to shorter pieces, down to bytes. The full table is 49,408 rows; a cut one
saves most of a small model's parameters.
"""

import gzip
import importlib.resources
import io
import itertools
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, Protocol

from distill.core.clip.model import import_open_clip

# CLIP's 49,408 tokens less its bytes (each once inside a word and once at its end) and its two markers; the file has more.
CLIP_MERGES = 49_408 - 2 * 256 - 2


class Tokenizer(Protocol):
    """What open_clip's tokenizers offer and we use."""

    vocab_size: int
    context_length: int | None
    eot_token_id: int

    def __call__(self, texts: list[str], context_length: int | None = None) -> Any:
        """Captions -> LongTensor [b, L]: start, pieces, end, zeros."""
        ...


def load_tokenizer(merges: Path | None, context_length: int) -> Tokenizer:
    """CLIP's tokenizer over a table of merges.

    Args:
        merges: a gzip file in CLIP's format; None = CLIP's own table.
        context_length: L, the tokens of a row.
    """
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    path = default_bpe() if merges is None else str(merges)
    return SimpleTokenizer(bpe_path=path, context_length=context_length)  # type: ignore[no-any-return]


def vocabulary_path(name: str) -> Path:
    """The merges file of a vocabulary: one of the user's own (a path that ends in .gz), or by the name of one that ships."""
    if name.endswith(".gz"):
        return Path(name)
    return Path(str(importlib.resources.files("students") / "vocabularies" / f"{name}.txt.gz"))


def cut_merges(words: Iterable[str]) -> bytes:
    """CLIP's table of merges, cut to those that some words need.

    Args:
        words: in lower case.

    Returns:
        A gzip file in CLIP's format, see `merges_file`.
    """
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    full = SimpleTokenizer()
    used: set[tuple[str, str]] = set()
    for word in words:
        for piece in full.pat.findall(word.lower()):
            used.update(merges_of("".join(full.byte_encoder[byte] for byte in piece.encode("utf-8")), full.bpe_ranks))
    return merges_file(used)


def merges_file(kept: Container[tuple[str, str]]) -> bytes:
    """A gzip file in CLIP's format with these of CLIP's merges, in CLIP's order; its bytes depend on them alone (no time stamp)."""
    import_open_clip()
    from open_clip.tokenizer import default_bpe

    with gzip.open(default_bpe()) as merges:
        lines = merges.read().decode("utf-8").split("\n")
    chosen = [line for line in lines[1 : CLIP_MERGES + 1] if tuple(line.split()) in kept]
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as file:
        file.write("\n".join([lines[0], *chosen]).encode("utf-8"))
    return buffer.getvalue()


def merges_of(token: str, ranks: dict[tuple[str, str], int]) -> Counter[tuple[str, str]]:
    """The merges that BPE applies to one token, and how often: repeatedly the pair of lowest rank, everywhere it stands."""
    pieces = [*token[:-1], token[-1] + "</w>"]
    used: Counter[tuple[str, str]] = Counter()
    while True:
        pairs = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
        if not pairs:
            return used
        best = min(pairs, key=lambda pair: ranks[pair])
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
                used[best] += 1
            else:
                merged.append(piece)
        pieces = merged

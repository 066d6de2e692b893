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
import pickle
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill.core.clip.model import import_open_clip

if TYPE_CHECKING:
    from torch import Tensor

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


class RememberedTokens:
    """Captions -> LongTensor [n, L], with a memory: a caption comes back every epoch, and cleaning its text costs more.

    Picklable as its tokenizer is; a copy in another process begins with nothing remembered.

    Args:
        tokenizer: what makes the tokens of a caption; the same for it in any company.
        context_length: L.
        most: captions to remember, some 300 bytes each; the oldest go first.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int, most: int = 200_000) -> None:
        self._tokenizer, self._length, self._most = tokenizer, context_length, most
        self._rows: dict[str, Any] = {}  # caption -> its tokens as int32, the last one standing for all that follow

    def __reduce__(self) -> tuple[Any, ...]:
        return _remembering, (pickle.dumps(self._tokenizer), self._length, self._most)

    def __call__(self, captions: list[str]) -> "Tensor":
        """n captions -> LongTensor [n, L]."""
        import numpy as np
        import torch

        rows: dict[str, Any] = {caption: self._rows.get(caption) for caption in captions}
        unknown = [caption for caption, row in rows.items() if row is None]
        if unknown:
            made = self._tokenizer(unknown, context_length=self._length).numpy().astype(np.int32)
            for caption, row in zip(unknown, made, strict=True):
                rows[caption] = self._rows[caption] = row[: np.flatnonzero(row != row[-1]).max(initial=-1) + 2].copy()
            while len(self._rows) > self._most:
                del self._rows[next(iter(self._rows))]
        tokens = np.empty((len(captions), self._length), np.int64)
        for place, caption in enumerate(captions):
            row = rows[caption]
            tokens[place, : len(row)], tokens[place, len(row) :] = row, row[-1]
        return torch.from_numpy(tokens)


def _remembering(tokenizer: bytes, context_length: int, most: int) -> RememberedTokens:
    """In another process: open_clip, whose class the tokenizer may be, imports torchvision, which must be made ready first."""
    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    return RememberedTokens(pickle.loads(tokenizer), context_length, most)


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

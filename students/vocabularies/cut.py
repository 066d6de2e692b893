"""What cutting a vocabulary to a corpus did: `Cut`, and the counting that both kinds of tokenizer share."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError, UsageError

REPORT_FILE = "vocabulary.json"
AUTO = "auto"  # every token that the corpus needs; "auto:N" = N tokens, those of the corpus first
FIXED = 2 * 256 + 2  # of byte pairs: bytes inside a word and at its end, and the two markers
MOST = 1_000_000  # captions that are read: more change neither the choice nor the figures
Pieces = Callable[[str], tuple[str, ...]]  # a word -> its tokens as text


@dataclass(frozen=True)
class Cut:
    """A vocabulary before and after, on the corpus that it was cut to.

    Attributes:
        kind: "byte pairs" or "word pieces".
        tokens_before, tokens_after: rows of the table of token embeddings.
        captions, words: of the corpus.
        fertility_before, fertility_after: tokens per word.
        captions_unchanged: share of the captions that are the same tokens as before, and so have the same embedding.
    """

    kind: str
    tokens_before: int
    tokens_after: int
    captions: int
    words: int
    fertility_before: float
    fertility_after: float
    captions_unchanged: float

    def line(self, width: int) -> str:
        """One sentence for people. `width`: of the text tower, whose table shrinks."""
        before, after = (n * width / 1e6 for n in (self.tokens_before, self.tokens_after))
        return (
            f"vocabulary cut from {self.tokens_before:,} to {self.tokens_after:,} {self.kind} "
            f"({before:.2f} to {after:.2f} M parameters): "
            f"{self.fertility_before:.3f} to {self.fertility_after:.3f} tokens a word over {self.captions:,} captions, of which "
            f"{self.captions_unchanged:.1%} read as before."
        )

    def write(self, folder: Path, setting: str) -> None:
        """Write the report into the folder of the vocabulary."""
        text = json.dumps({"setting": setting, **asdict(self)}, indent=2)
        (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")


def read_cut(folder: Path) -> tuple[str, Cut] | None:
    """(setting, report) of a vocabulary that was cut into a folder; None where there is none."""
    try:
        values: dict[str, Any] = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        return str(values.pop("setting")), Cut(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def size_of(setting: str) -> int | None:
    """The N of "auto:N", None of "auto". Raises UsageError for anything else."""
    word, colon, number = setting.partition(":")
    if word != AUTO or (colon and not (number.isdigit() and int(number) > 0)):
        raise UsageError(
            f"student.vocabulary = {setting!r} is no choice. Write auto (every token of the captions), auto:8000 "
            "(so many, those of the captions first), or the path of a bpe_merges.txt.gz."
        )
    return int(number) if colon else None


def refuse_few_byte_pairs(size: int | None) -> None:
    """Raise UsageError for a number of byte pairs that bytes and markers alone take."""
    if size is not None and size <= FIXED:
        raise UsageError(f"A vocabulary of byte pairs has more than {FIXED} tokens (bytes and markers), not {size}.")


def count_words(
    captions: Iterable[str], words_of: Callable[[str], list[str]]
) -> tuple[Counter[str], list[tuple[str, ...]]]:
    """The words of a corpus with how often they occur, and the distinct words of each caption.

    Raises DistillError where the corpus has no word.
    """
    counts: Counter[str] = Counter()
    each: list[tuple[str, ...]] = []
    for number, caption in enumerate(captions):
        if number == MOST:
            break
        words = words_of(caption)
        counts.update(words)
        each.append(tuple(dict.fromkeys(words)))
    if not counts:
        raise DistillError(
            "There are no words to cut the vocabulary to: the captions are empty. Name a file by student.corpus."
        )
    return counts, each


def report(
    kind: str, sizes: tuple[int, int], counts: Counter[str], each: list[tuple[str, ...]], before: Pieces, after: Pieces
) -> Cut:
    """The figures of a cut.

    Args:
        sizes: tokens before and after.
        counts, each: as of `count_words`.
        before, after: of the two tokenizers.
    """
    old = {word: before(word) for word in counts}
    new = {word: after(word) for word in counts}
    total = counts.total()
    fertility = [sum(len(pieces[word]) * times for word, times in counts.items()) / total for pieces in (old, new)]
    changed = {word for word in counts if old[word] != new[word]}
    same = sum(changed.isdisjoint(words) for words in each)
    return Cut(kind, *sizes, len(each), total, fertility[0], fertility[1], same / len(each))

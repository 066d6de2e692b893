"""Which entries of a metadata list a caption mentions: MetaCLIP's substring matching, by looking up word sequences.

MetaCLIP (arXiv:2309.16671, section 3.2) puts spaces around punctuation and looks for " entry " in " caption ". The same
is found here by hashing: an entry matches where its words stand in a row in the caption. That needs no automaton, no
dependency, and one dictionary. Two differences, both to match more: letters are compared without case, and entries are
spaced like captions, so that an entry with punctuation can match at all.
"""

import json
import re
from array import array
from pathlib import Path

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import UsageError

EVERYDAY = Path(__file__).with_name("everyday.txt")
_SPACED = re.compile(r"([,.;:?!`])")


def words_of(text: str) -> list[str]:
    """The words of a caption or an entry, punctuation marks , . ; : ? ! ` being words of their own, without case."""
    return _SPACED.sub(r" \1 ", text.casefold()).split()


def read_concepts(path: Path) -> list[str]:
    """The entries in a text file (one a line; blank lines and lines with # are skipped) or a JSON list of strings.

    Raises UsageError when the file cannot be read, is no such list, or holds no entry.
    """
    try:
        text = path.read_text(encoding="utf-8")
        entries = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"The concept list {str(path)!r} cannot be read ({error}). Give a UTF-8 text file.") from None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"The concept list {str(path)!r} must be a JSON list of strings.")
    kept = [entry.strip() for entry in entries if words_of(entry) and not entry.startswith("#")]
    if not kept:
        raise UsageError(f"The concept list {str(path)!r} has no entry. Write one a line.")
    return kept


class Concepts:
    """A metadata list, ready for look-ups. About 300 bytes an entry: 150 MB for MetaCLIP's 500 thousand.

    Attributes:
        entries: the list, without those that say the same (same words) as an earlier one.
    """

    def __init__(self, entries: list[str]) -> None:
        self.entries: list[str] = []
        self._place: dict[tuple[str, ...], int] = {}
        self._lengths: dict[str, list[int]] = {}  # first word -> lengths of the entries that begin with it
        for entry in entries:
            words = tuple(words_of(entry))
            if words and words not in self._place:
                self._place[words] = len(self.entries)
                self.entries.append(entry)
                lengths = self._lengths.setdefault(words[0], [])
                if len(words) not in lengths:
                    lengths.append(len(words))

    def match(self, text: str) -> set[int]:
        """Places in `entries` of those that `text` mentions."""
        words = words_of(text)
        found = set()
        for start, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                place = self._place.get(tuple(words[start : start + length]))
                if place is not None:
                    found.add(place)
        return found


class Matches:
    """The entries that each sample mentions, packed: 4 bytes a match and 8 a sample."""

    def __init__(self) -> None:
        self._places, self._ends = array("i"), array("q", [0])

    def add(self, places: set[int]) -> None:
        """Append the entries that one more sample mentions."""
        self._places.extend(sorted(places))
        self._ends.append(len(self._places))

    def counts(self, entries: int) -> Array:
        """How many samples mention each entry: [entries] int64."""
        return np.bincount(np.asarray(self._places, np.int64), minlength=entries)

    def of(self, sample: int) -> Array:
        """The entries of one sample, [m] int32."""
        return np.asarray(self._places[self._ends[sample] : self._ends[sample + 1]], np.int32)

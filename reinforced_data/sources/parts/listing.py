"""What folders, tables and hub sets have in common: a listing of rows, split, limited and served as a `Source`.

A listing knows every row of one place; `ListedSource` picks the rows of a split, cleans captions, makes captions from
class labels where there are no captions, and builds the zero-shot task. Reading rows is the business of `sources/`.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Protocol

import numpy as np

from distill.core.atomic import sha256_json
from distill.core.errors import UsageError
from reinforced_data.pixels.decode import BadImageError, storable_text
from reinforced_data.read_as import TARS, ReadAs, listed
from reinforced_data.sample import Caption, RawSample, ZeroShotTask
from reinforced_data.source import NAMED, Split
from reinforced_data.sources.parts.columns import MADE_FROM_CLASSES
from reinforced_data.sources.parts.kept.compact import AllBut, Coded, Numbers, Picked
from reinforced_data.sources.parts.splits import Choice, choose, forget, held_out_rows, part_of
from reinforced_data.sources.parts.words import label_words

LABEL_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a close-up photo of a {}.", "{}")
LABEL_CAPTION_SOURCE = "synthetic:label-template"
MAX_CAPTION_CHARS = 4096  # what comes after is no caption; every tokenizer we know cuts far earlier
MAX_CAPTIONS = 256  # of one image; what comes after is dropped


class Listing(Protocol):
    """Every row of one place, in a stable order.

    Attributes:
        name, location, licence: for reports and manifests.
        fingerprint: hex digest of names, sizes and metadata.
        class_names: what labels index; empty when rows have no labels.
        parts: per row the part that it says it belongs to ("train", "test"); None where rows say nothing.
        read_as: how the place was read.
    """

    name: str
    location: str
    licence: str
    fingerprint: str
    class_names: tuple[str, ...]
    parts: Sequence[str | None] | None
    read_as: ReadAs

    @property
    def keys(self) -> Sequence[str]:
        """One per row."""
        ...

    def image(self, row: int) -> bytes:
        """Encoded bytes as found. Raises BadImageError when they cannot be read."""
        ...

    def captions(self, row: int) -> Sequence[Caption]:
        """Captions as found, perhaps none. Raises BadImageError when they cannot be read."""
        ...

    def label(self, row: int) -> int | None:
        """Index into `class_names`, None when the row has none."""
        ...


def clean_caption(text: str) -> str:
    """`text` as valid UTF-8 with single spaces, no NULs, at most `MAX_CAPTION_CHARS` characters; may come out empty."""
    valid = text[: MAX_CAPTION_CHARS * 4].encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")
    return " ".join(valid.split())[:MAX_CAPTION_CHARS].strip()


def clean_captions(texts: Sequence[str]) -> list[str]:
    """Cleaned, empty ones and repeats dropped, order kept."""
    return list(dict.fromkeys(cleaned for text in texts if (cleaned := clean_caption(text))))


def check_tags_occur(listing: Listing, tagged: Mapping[str, str], most: int = 100) -> None:
    """Raise UsageError unless each caption source of `tagged` occurs in the first `most` rows: a name may be wrong."""
    missing = dict(tagged)
    for row in range(min(most, len(listing.keys))):
        if not missing:
            return
        with contextlib.suppress(BadImageError):
            sources = {caption.source for caption in listing.captions(row)}
            missing = {name: source for name, source in missing.items() if source not in sources}
    if missing:
        raise UsageError(
            f"None of the first {min(most, len(listing.keys))} samples of {listing.location!r} has captions in "
            f"{', '.join(map(repr, missing))}. Check the name: it is a key of the samples' JSON files, or the ending of "
            "a member of a tar."
        )


def serve(listing: Listing, choice: Choice, split: Split, limit: int | None, where: str) -> "ListedSource":
    """The rows of `listing` that serve `split`.

    Args:
        choice: what of the place was chosen by names of its files; rows may name parts too, which divide what is left.
    """
    rows: Sequence[int] = range(len(listing.keys))
    remember, name = getattr(listing, "remember", forget), ""
    if not choice.divided:
        parts = listing.parts if isinstance(listing.parts, Coded) else Coded.of(listing.parts or ())
        named = [part_of(value or "") for value in parts.values]
        found = list(dict.fromkeys(part for part in named if part))
        if found or split.startswith(NAMED):
            choice = choose(found, split, where, divide=True)
            codes = [code for code, part in enumerate(named) if part in choice.parts]
            name = "-".join(["", *choice.parts])
            rows = Numbers(remember(f"rows-of{name}", lambda: np.flatnonzero(np.isin(parts.codes, codes))))
    if choice.hold_out:
        keys = Picked(listing.keys, rows) if name else listing.keys
        held = held_out_rows(keys, split, where, lambda _, find: remember(f"held-out{name}", find))
        if name:
            of, name = rows, f"{name}-{split}"
            held = Numbers(remember(f"rows-of{name}", lambda: np.fromiter((of[place] for place in held), np.int64)))
        rows = held
    return ListedSource(listing, rows, split, limit, choice.told(split), name)


class ListedSource:
    """A `Source` over the chosen rows of a listing.

    Args:
        listing: the rows.
        rows: indices of the split's rows.
        limit: keep at most this many, spread evenly over the rows (places are often sorted by class).
        told: which part of the place these rows are, for people.
        name: the same for what is remembered of these rows; "" where that follows from their number.
    """

    def __init__(
        self, listing: Listing, rows: Sequence[int], split: Split, limit: int | None, told: str = "", name: str = ""
    ) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"A limit of {limit} samples leaves nothing. Give at least 1, or no limit.")
        kept = getattr(listing, "remember", forget) if isinstance(rows, AllBut | range | Numbers) else forget
        if limit is not None and limit < len(rows):
            chosen = (rows[place * len(rows) // limit] for place in range(limit))
            rows, kept = Numbers(np.fromiter(chosen, np.int64, limit)), forget
        if not rows:
            raise UsageError(
                f"{listing.location!r} has no samples for split {split!r}. Give a place that holds images."
            )
        self.name = listing.name
        self.location = listing.location
        self.licence = listing.licence
        self.split = split
        self.read_as = listing.read_as.but(split=told)
        self._listing = listing
        words = [label_words(name) for name in listing.class_names]
        self._words = tuple(name for name in words if name) if words and all(words) else None
        if words and self._words is None:
            nameless = [name for name in listing.class_names if label_words(name) is None]
            told = "no captions" if self.read_as.captions == MADE_FROM_CLASSES else self.read_as.captions
            note = f"labels are not used: {listed(nameless)} are no words"
            if listing.read_as.kind == TARS:
                note += " (classnames.txt beside the tars gives their names, one a line)"
            self.read_as = self.read_as.but(note, captions=told, classes=0)
        self._rows = rows
        digest = kept(f"rows-{len(rows)}{name}", lambda: _rows_digest(rows))
        self.fingerprint = sha256_json([listing.fingerprint, split, len(rows), digest])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> RawSample:
        """Raises BadImageError (naming the key) when the bytes cannot be read, IndexError outside the source."""
        row = self._rows[index]
        return RawSample(
            key=self.key(index),
            image=self._listing.image(row),
            captions=self.captions(index),
            label=self._listing.label(row),
        )

    def key(self, index: int) -> str:
        """The key of sample `index`, without touching its image."""
        return clean_key(self._listing.keys[self._rows[index]])

    def captions(self, index: int) -> tuple[Caption, ...]:
        """The captions of sample `index`, cleaned, without touching its image; from its label when it has none.

        Raises BadImageError when they cannot be read.
        """
        row = self._rows[index]
        found: dict[str, Caption] = {}
        for caption in self._listing.captions(row):
            if len(found) < MAX_CAPTIONS and (text := clean_caption(caption.text)):
                found.setdefault(text, Caption(text, caption.source))
        if found:
            return tuple(found.values())
        label = self._listing.label(row)
        if label is None:
            return ()
        if self._words is None:
            return ()
        name = self._words[label]
        return tuple(Caption(template.format(name), LABEL_CAPTION_SOURCE) for template in LABEL_TEMPLATES)

    def zero_shot(self) -> ZeroShotTask | None:
        """Classification over the listing's classes, with every labelled image of this split; None without labels."""
        if self._words is None:
            return None
        images, labels = [], []
        for row in self._rows:
            label = self._listing.label(row)
            with contextlib.suppress(BadImageError):  # a missing file is no reason to have no task
                if label is not None:
                    images.append(self._listing.image(row))
                    labels.append(label)
        if not images:
            return None
        return ZeroShotTask(
            name=self.name,
            images=tuple(images),
            labels=tuple(labels),
            class_names=self._words,
            templates=getattr(self._listing, "templates", ()) or LABEL_TEMPLATES,
        )


def clean_key(key: str) -> str:
    """A key that can be stored as UTF-8 (file names on Linux need not be), without NULs, of at most 1,024 characters."""
    return storable_text(key, 1024)


def _rows_digest(rows: Sequence[int]) -> str:
    digest, numbers, comma = hashlib.sha256(), iter(rows), ""
    while some := list(islice(numbers, 1 << 16)):
        digest.update((comma + ",".join(map(str, some))).encode())
        comma = ","
    return digest.hexdigest()

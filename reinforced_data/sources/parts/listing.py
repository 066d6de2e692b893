"""What folders, tables and hub sets have in common: a listing of rows, split, limited and served as a `Source`.

A listing knows every row of one place; `ListedSource` picks the rows of a split, cleans captions, makes captions from
class labels where there are no captions, and builds the zero-shot task. Reading rows is the business of `sources/`.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from distill.core.atomic import sha256_json
from distill.core.errors import UsageError
from reinforced_data.pixels.decode import BadImageError, storable_text
from reinforced_data.sample import Caption, RawSample, ZeroShotTask
from reinforced_data.source import Split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".jfif")
TRAIN_NAMES = ("train", "training")
EVAL_NAMES = ("dev", "val", "validation", "valid", "eval", "test")  # the first that is there serves as "eval"
LABEL_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a close-up photo of a {}.", "{}")
LABEL_CAPTION_SOURCE = "synthetic:label-template"
HOLDOUT_SHARE, HOLDOUT_MOST = 0.1, 1000
MAX_CAPTION_CHARS = 4096  # what comes after is no caption; every tokenizer we know cuts far earlier
MAX_CAPTIONS = 256  # of one image; what comes after is dropped


class Listing(Protocol):
    """Every row of one place, in a stable order.

    Attributes:
        name, location, licence: for reports and manifests.
        fingerprint: hex digest of names, sizes and metadata.
        class_names: what labels index; empty when rows have no labels.
    """

    name: str
    location: str
    licence: str
    fingerprint: str
    class_names: tuple[str, ...]

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


def pick_split(found: Sequence[str], split: Split, where: str) -> str | None:
    """Which of the names `found` serves `split`; None = hold a part out.

    A place with only a train part is divided by hold-out; one with only an eval part cannot train: UsageError.
    """
    train = [name for name in TRAIN_NAMES if name in found]
    evaluation = [name for name in EVAL_NAMES if name in found]
    if split == "eval":
        return evaluation[0] if evaluation else None
    if train and evaluation:
        return train[0]
    if evaluation:
        raise UsageError(
            f"{where} has only {', '.join(evaluation)} data and none called train. Train on another place, or rename "
            "the part to train on to 'train'."
        )
    return None


def held_out_rows(keys: Sequence[str], split: Split, where: str) -> list[int]:
    """Rows of `split` when a place names no splits: 10 % (at most 1,000, at least 1) by hash of the key are "eval"."""
    if split == "eval" and len(keys) < 2:
        raise UsageError(f"{where} holds {len(keys)} sample(s); at least 2 are needed to hold one out for evaluation.")
    count = max(1, min(HOLDOUT_MOST, round(HOLDOUT_SHARE * len(keys)))) if len(keys) > 1 else 0
    by_hash = sorted(range(len(keys)), key=lambda row: (hashlib.sha256(b"holdout:" + _utf8(keys[row])).digest(), row))
    held = set(by_hash[:count])
    return [row for row in range(len(keys)) if (row in held) == (split == "eval")]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # of a file name, or of JSON, which need not be valid


class ListedSource:
    """A `Source` over the chosen rows of a listing.

    Args:
        listing: the rows.
        rows: indices of the split's rows.
        limit: keep at most this many, spread evenly over the rows (places are often sorted by class).
    """

    def __init__(self, listing: Listing, rows: Sequence[int], split: Split, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"A limit of {limit} samples leaves nothing. Give at least 1, or no limit.")
        if limit is not None and limit < len(rows):
            rows = [rows[place * len(rows) // limit] for place in range(limit)]
        if not rows:
            raise UsageError(
                f"{listing.location!r} has no samples for split {split!r}. Give a place that holds images."
            )
        self.name = listing.name
        self.location = listing.location
        self.licence = listing.licence
        self.split = split
        self._listing = listing
        self._rows = rows
        self.fingerprint = sha256_json([listing.fingerprint, split, len(rows), _rows_digest(rows)])

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
        name = self._listing.class_names[label].replace("_", " ")
        return tuple(Caption(template.format(name), LABEL_CAPTION_SOURCE) for template in LABEL_TEMPLATES)

    def zero_shot(self) -> ZeroShotTask | None:
        """Classification over the listing's classes, with every labelled image of this split; None without labels."""
        if not self._listing.class_names:
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
            class_names=tuple(name.replace("_", " ") for name in self._listing.class_names),
            templates=LABEL_TEMPLATES,
        )


def clean_key(key: str) -> str:
    """A key that can be stored as UTF-8 (file names on Linux need not be), without NULs, of at most 1,024 characters."""
    return storable_text(key, 1024)


def _rows_digest(rows: Sequence[int]) -> str:
    return hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()

"""Where images and captions come from: `open_source("rendered")`, a folder, a table file, tars, a `datasets` name.

A source is a random-access list of `RawSample`, with a stable order and a fingerprint. It never decodes an image. What each
kind can read is in `sources/`.
"""

import contextlib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from distill.core.errors import UsageError, nearest
from distill.core.registry import Registry
from reinforced_data.read_as import ReadAs
from reinforced_data.sample import RawSample, ZeroShotTask

Split = str  # "train", "eval", "given", or NAMED and the name of a part
NAMED = "named:"


class Source(Protocol):
    """A list of raw samples.

    Attributes:
        name: what the report calls it.
        licence: the terms of images and captions in a few words; "unknown" where nobody said.
        fingerprint: hex digest that changes when the content or order changes.
        read_as: how the place was read, and what in it was left aside.
    """

    name: str
    licence: str
    fingerprint: str
    read_as: ReadAs

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> RawSample: ...

    def zero_shot(self) -> ZeroShotTask | None:
        """The classification task that comes with this split, if any."""
        ...


@dataclass(frozen=True)
class ColumnNames:
    """Where the user says which columns hold what; by default they are found by their names.

    A column is one of a table or hub set, a key of JSON beside an image, or the ending of a tar's member ("desc.txt").

    Attributes:
        image: the encoded images, or their paths.
        captions: real captions, of all these columns; no others are then taken for captions.
        tagged: more captions, column -> tag: of the source "synthetic:<tag>"; the tag "real" makes them real.
        lenient: names that a place lacks are passed over. For a place that these were not said of.
    """

    image: str | None = None
    captions: tuple[str, ...] = ()
    tagged: Mapping[str, str] = field(default_factory=dict)
    lenient: bool = False

    def __bool__(self) -> bool:
        return bool(self.image or self.captions or self.tagged)

    def sources(self) -> dict[str, str]:
        """Caption column -> the source of its captions. Raises UsageError for a tag that is no word."""
        sources = dict.fromkeys(self.captions, "real")
        for name, tag in self.tagged.items():
            if not re.fullmatch(r"[\w.+-]+", tag):
                raise UsageError(
                    f"The tag {tag!r} of the caption column {name!r} is no single word. Write for example "
                    '{"rewrite" = "llm"}; "real" marks captions of people.'
                )
            sources.setdefault(name, "real" if tag == "real" else f"synthetic:{tag}")
        return sources

    def real(self) -> "ColumnNames":
        """The same without the columns of synthetic captions; those tagged "real" stay."""
        return replace(self, tagged={name: tag for name, tag in self.tagged.items() if tag == "real"})

    def to_json(self) -> dict[str, Any]:
        """What is said, nothing where nothing is; see `of`."""
        said = {"image": self.image, "captions": [*self.captions], "tagged": dict(self.tagged)}
        return {name: value for name, value in said.items() if value}

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "ColumnNames":
        """What `to_json` has written."""
        return cls(said.get("image"), tuple(said.get("captions", ())), dict(said.get("tagged", {})))

    def key(self) -> tuple[Any, ...]:
        """What tells two of them apart."""
        return self.image, self.captions, tuple(self.tagged.items()), self.lenient


NO_COLUMNS = ColumnNames()
Opener = Callable[
    ..., Source
]  # opener(location: str, split: Split, limit: int | None[, columns: ColumnNames]) -> Source
SOURCES: Registry[Opener] = Registry("data source", ("reinforced_data.sources",))

_opened: ContextVar[dict[Any, Source] | None] = ContextVar("opened", default=None)  # see `opening_once`

_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet")
_TAR = ".tar"
_PATH_SCHEMES = ("folder", "images", "classes", "table", "webdataset")  # of places; what follows is a path
_KINDS = ("folder", "table", "hf", "webdataset")  # of places; a bare word of theirs is a folder's name


@contextlib.contextmanager
def opening_once() -> Iterator[None]:
    """Inside, the same part of the same place is opened once: a second `open_source` gives the same source.

    For the steps of one job that each look at the data. What was opened stays in memory until the end of the block.
    """
    token = None if _opened.get() is not None else _opened.set({})
    try:
        yield
    finally:
        if token is not None:
            _opened.reset(token)


def open_source(
    location: str | os.PathLike[str],
    split: Split,
    limit: int | None = None,
    caption_columns: Mapping[str, str] | None = None,
    *,
    columns: ColumnNames | None = None,
) -> Source:
    """Open data for one split.

    Args:
        location: "rendered[:...]" or any registered source name with what it needs after a colon ("hf:org/set"), an
            existing folder, an existing .csv, .tsv, .jsonl, .parquet or .tar file, or a pattern of tars
            ("shards/{00000..00009}.tar").
        split: "train" or "eval" of a place that is trained on: parts named train / dev, val, validation, test are used
            where they are there; else 10 % (at most 1,000) are held out by hash of the key. "given" = of a place that
            models are judged on alone: its evaluation part where one is named, else all of it. "named:test" = the part
            that the place calls so.
        limit: at most this many samples of the split.
        caption_columns: more captions than those found by name: column (of a table or hub set), JSON key or ending of a
            tar's member -> tag. They become captions of the source "synthetic:<tag>"; the tag "real" makes them real.
        columns: which columns hold images and captions, where their names do not say so; instead of `caption_columns`.

    Raises:
        UsageError: nothing of the kind is there, or it holds no data; the message names what was looked for.
        DistillError: it is there but cannot be read, or a hub set cannot be had.
    """
    location, known = os.fspath(location), _opened.get()
    named = columns if columns is not None else ColumnNames(tagged=caption_columns or {})
    if known is None:
        return _open(location, split, limit, named)
    key = (location, split, limit, named.key())
    if key not in known:
        known[key] = _open(location, split, limit, named)
    return known[key]


def _open(location: str, split: Split, limit: int | None, columns: ColumnNames) -> Source:
    if split not in ("train", "eval", "given") and not split.startswith(NAMED):
        raise UsageError(f"Unknown split {split!r}. {nearest(str(split), ('train', 'eval', 'given', 'named:PART'))}")
    if "\0" in location:
        raise UsageError(f"The data location {location!r} has a NUL in it. Give a path or a name.")
    if location.startswith("datacompdr:"):
        raise UsageError(
            f"{location!r} is a set that others reinforced. Import it first: distill reinforce --data {location} --set "
            "reinforce.images=IMAGES --out runs/imported; then train on runs/imported/reinforced."
        )
    path = Path(location).expanduser()
    head = location.partition(":")[0]
    if head in SOURCES and (":" in location or head not in _KINDS):
        return _call(head, location, split, limit, columns)  # "./rendered" reaches a folder of that name
    if path.is_dir():
        return _call("folder", location, split, limit, columns)
    if path.is_file():
        if path.suffix.lower() in _TABLES:
            return _call("table", location, split, limit, columns)
        if path.suffix.lower() == _TAR:
            return _call("webdataset", location, split, limit, columns)
        packed = " Unpack it first: compressed tars have no random access." if ".tar." in path.name.lower() else ""
        raise UsageError(
            f"The file {location!r} is no table or tar: {', '.join((*_TABLES, _TAR))} are read.{packed} Give one, or "
            "the folder of images."
        )
    if location.lower().endswith(_TAR) and "{" in location:
        return _call("webdataset", location, split, limit, columns)
    raise UsageError(_not_there(location, path))


def absolute_place(location: str) -> str:
    """A data location that means the same from every working folder: paths absolute, "~" replaced, names as they are."""
    head, colon, tail = location.partition(":")
    if colon and head in (*_PATH_SCHEMES, "datacompdr"):
        return f"{head}:{absolute_place(tail)}"
    if head == "hf" and colon and Path(tail).expanduser().is_dir():  # a saved one
        return f"hf:{Path(tail).expanduser().absolute()}"
    if not location or "\0" in location or (head in SOURCES and (colon or head not in _KINDS)):
        return location
    path = Path(location).expanduser()
    is_pattern = location.lower().endswith(_TAR) and "{" in location
    return str(path.absolute()) if path.exists() or location.startswith("~") or is_pattern else location


def _call(name: str, location: str, split: Split, limit: int | None, columns: ColumnNames) -> Source:
    opener = SOURCES.get(name)
    if not columns:
        return opener(location, split, limit)
    takes: Any = inspect.signature(opener).parameters
    if "columns" not in takes:
        if columns.lenient:
            return opener(location, split, limit)
        named = ", ".join([*filter(None, [columns.image]), *columns.sources()])
        raise UsageError(
            f"The data source {name!r} has no caption columns, and none of images ({named}). Leave them out."
        )
    return opener(location, split, limit, columns=columns)


def _not_there(location: str, path: Path) -> str:
    names = [name for name in SOURCES if name not in ("folder", "table", "webdataset")]
    near = _near(path, names)
    return (
        f"There is no data at {location!r}: looked for a folder (images, or a reinforced set), a table file "
        f"({', '.join(_TABLES)}) or tar at "
        f"{str(path.absolute())!r}, and a data source of that name (known: {', '.join(names)}; hub sets are written "
        f"hf:org/set). {near}"
    ).strip() + " Where the data was moved, say where it is now: --data PLACE; of a finished run: --set data=PLACE."


def _near(path: Path, names: list[str]) -> str:
    """A question about what is called nearly so: beside the first part of the path that is not there, or further down it."""
    parts = path.absolute().parts
    missing = next((at for at in range(1, len(parts)) if not Path(*parts[: at + 1]).exists()), len(parts) - 1)
    place, rest = Path(*parts[:missing]), parts[missing:]
    shorter = next((found for at in range(1, len(rest)) if (found := place.joinpath(*rest[at:])).exists()), None)
    if shorter is not None:
        return f"Did you mean {str(shorter)!r}?"
    try:
        beside = [entry.name for entry in place.iterdir()]
    except OSError:
        beside = []
    hint = nearest(rest[0], [*beside, *(names if len(rest) == 1 else ())])
    if not hint.startswith("Did you"):
        return ""
    return hint if len(rest) == 1 else f"In {str(place)!r}: {hint}"

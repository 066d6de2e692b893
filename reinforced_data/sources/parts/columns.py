"""Which column of a table holds what, and how its cells become samples. Shared by table files, folders and hub sets.

Names are matched without case. Labels are class names themselves, or numbers whose names the Parquet schema carries in
the way the `datasets` library writes them. Captions that a language model wrote lie in columns that the user names, each
with a tag (`caption_columns`), which becomes the caption's source.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.core.errors import UsageError, nearest
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.sample import Caption
from reinforced_data.source import NO_COLUMNS, ColumnNames
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES, ending

KEY_NAMES = ("key", "__key__", "uid", "id", "image_id", "img_id")
IMAGE_NAMES = (
    "image",
    "img",
    "image_name",
    "image_file",
    "img_name",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "image_bytes",
    "bytes",
    "image_path",
    "img_path",
)
PATH_NAMES = ("path", "filepath", "file_path", "file_name", "filename", "file")
CAPTION_NAMES = (
    "captions",
    "caption",
    "texts",
    "text",
    "sentences",
    "sentence",
    "description",
    "title",
    "alt_text",
    "prompt",
    "comment",
    "conversations",
)
CAPTION_COLUMN = re.compile(
    r"(caption|text|sentence|prompt|description|comment)s?[-_ ]?\d{1,2}"
)  # caption_0 ... caption_4
_NESTED = (*CAPTION_NAMES, "raw", "sent", "value", "content")  # of an object inside a cell
SPLIT_NAMES = ("split", "subset", "partition")
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "fine_label")
MADE_FROM_CLASSES = "captions made from templates"
NO_CAPTION_COLUMN = "no column has a name of captions"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")  # how encoded images begin
ADDRESSES = ("http://", "https://", "s3://", "gs://")  # of what is no file here
MAX_IMAGE_BYTES = 512 << 20  # of an encoded image; `decode` refuses images of this size for their pixels anyway


@dataclass(frozen=True)
class Columns:
    """The names of the columns in use; None where the table has none.

    `tagged`: caption column that the user named -> its source. `notes`: what to say of the choice.
    """

    image: str
    key: str | None
    captions: tuple[str, ...]
    label: str | None
    tagged: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Columns":
        """What `dataclasses.asdict` says of one, also when it has been JSON since."""
        return cls(**{**said, "captions": tuple(said["captions"]), "notes": tuple(said["notes"])})

    @property
    def texts(self) -> list[str]:
        """Every caption column."""
        return [*self.captions, *self.tagged]


def find_columns(
    names: Sequence[str],
    where: str,
    asked: ColumnNames = NO_COLUMNS,
    *,
    by_id: bool = False,
    guess: Callable[[], str | None] = lambda: None,
) -> Columns:
    """The columns of a table: those that the user names, else by name, else an image column by what it holds.

    Args:
        names: what the table has.
        asked: what the user says of them; captions that are named so are the only ones, and tagged ones no real ones.
        by_id: whether an id may stand for the path, of a table of captions that has nothing else.
        guess: the column that holds images, or their paths, by its content; asked where no name says it.

    Raises UsageError listing what is there when there is no image column, or none of a name in `asked`.
    """
    by_lower = {name.lower(): name for name in reversed(names)}
    tagged = {by_lower[name.lower()]: source for name, source in asked.sources().items() if name.lower() in by_lower}
    wrong = [name for name in (*filter(None, [asked.image]), *asked.sources()) if name.lower() not in by_lower]
    if wrong and not asked.lenient:
        flag = "image column" if wrong[0] == asked.image else "caption column"
        raise UsageError(
            f"{where} has no {flag} {wrong[0]!r}. {nearest(wrong[0], names)} Its columns are {', '.join(names) or 'none'}."
        )

    def first(known: Sequence[str]) -> str | None:
        found = (by_lower[name] for name in known if name in by_lower)
        return next((name for name in found if name not in tagged), None)

    image = by_lower.get(asked.image.lower()) if asked.image else None
    image = image or first((*IMAGE_NAMES, *PATH_NAMES))
    guessed = image is None and (image := guess()) is not None
    named = any(name.lower() in by_lower for name in asked.captions)
    captions = () if named else _caption_columns(by_lower, {*tagged, image})
    if image is None and by_id and (captions or tagged):
        image = first(KEY_NAMES)
    if image is None:
        raise UsageError(
            f"{where} has no image column: its columns are {', '.join(names) or 'none'}. Say which holds images or their paths: "
            f"--image-column NAME. By themselves these names are known: {', '.join((*IMAGE_NAMES, *PATH_NAMES))}."
        )
    return Columns(
        image=image,
        key=None if image == (key := first(KEY_NAMES)) else key,
        captions=captions,
        label=first(LABEL_NAMES),
        tagged=tagged,
        split=first(SPLIT_NAMES),
        notes=_notes(names, image if guessed else None, [*captions, *tagged]),
    )


def _notes(names: Sequence[str], guessed: str | None, captions: Sequence[str]) -> tuple[str, ...]:
    """What to say of columns: which was guessed to hold images, and what to do where none is known to hold captions."""
    notes = [f"images from the column {guessed}, by what it holds"] if guessed else []
    if not captions:
        notes.append(f"{NO_CAPTION_COLUMN} (columns: {', '.join(names)}); another is named by --caption-column NAME")
    return tuple(notes)


def _caption_columns(by_lower: Mapping[str, str], taken: Collection[str | None]) -> tuple[str, ...]:
    """Those of a known name, best first; else those with a number, caption_0 to caption_4, in order."""
    free = {lower: name for lower, name in by_lower.items() if name not in taken}
    known = tuple(free[name] for name in CAPTION_NAMES if name in free)
    return known or tuple(free[name] for name in sorted(free) if CAPTION_COLUMN.fullmatch(name))


def captions_told(columns: Columns, classes: int) -> str:
    """Where the captions of a table with these columns come from, for people."""
    if columns.texts:  # of several columns of known names the first that says something
        return f"captions from the column{'s' if len(columns.texts) > 1 else ''} {', '.join(columns.texts)}"
    return MADE_FROM_CLASSES if classes else "no captions"


def row_captions(cells: Mapping[str, Any], columns: Columns) -> list[Caption]:
    """The captions in a row's caption cells, real ones first, then those of each tagged column."""
    several = [caption_texts(cells.get(name)) for name in columns.captions]
    if columns.captions and columns.captions[0].lower() in CAPTION_NAMES:  # the best column that says something
        several = [next((texts for texts in several if any(text.strip() for text in texts)), [])]
    real = [text for texts in several for text in texts]
    tagged = [
        Caption(text, source) for name, source in columns.tagged.items() for text in caption_texts(cells.get(name))
    ]
    return [*map(Caption, real), *tagged]


def json_captions(text: str, tagged: Mapping[str, str]) -> tuple[list[Caption], list[Caption]]:
    """The captions in a JSON text (a string, list, or object with a caption key), and those in its keys of `tagged`.

    Raises ValueError or RecursionError when it is no JSON.
    """
    value = json.loads(text)
    if not isinstance(value, dict) or not tagged:
        return [Caption(found) for found in caption_texts(value)], []
    lower = {str(name).lower(): item for name, item in value.items()}
    cells = {name: caption_texts(lower.pop(name.lower(), None)) for name in tagged}
    extra = [Caption(caption, tagged[name]) for name, texts in cells.items() for caption in texts]
    return [Caption(caption) for caption in caption_texts(lower)], extra


def caption_texts(value: Any, depth: int = 4) -> list[str]:
    """A caption cell (text, list of texts, JSON object with a caption key, or nothing) as a list of texts.

    What is nested deeper than `depth` is no caption.
    """
    if value is None or depth == 0:
        return []
    if isinstance(value, str):
        return caption_texts(listed, depth - 1) if (listed := _list_literal(value)) else [value]
    if isinstance(value, dict):
        lower = {str(name).lower(): item for name, item in value.items()}
        found = (caption_texts(lower[name], depth - 1) for name in _NESTED if name in lower)
        return next((texts for texts in found if any(text.strip() for text in texts)), [])
    if isinstance(value, list | tuple):
        return [text for item in value if not _asks(item) for text in caption_texts(item, depth - 1)]
    return [str(value)] if isinstance(value, int | float) and math.isfinite(value) else []


def _asks(item: Any) -> bool:
    """Whether it is what a person says in a conversation about an image, which the model's answer describes."""
    return isinstance(item, dict) and item.get("from", item.get("role")) in ("human", "user", "system")


def _list_literal(text: str) -> list[str] | None:
    """The texts of a cell that writes a list as JSON, Python or NumPy do; None for any other cell."""
    text = text.strip()
    if not (text.startswith(("['", '["')) and text.endswith(("']", '"]'))):
        return None
    for read, form in ((json.loads, text), (ast.literal_eval, re.sub(r"(?<=['\"])\s+(?=['\"])", ", ", text))):
        try:
            value = read(form)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None
    return None


def column_of_images(cells: Mapping[str, Sequence[Any]]) -> str | None:
    """The one column whose cells (column -> some of them) are encoded images or names of image files; None for none or several."""
    found = []
    for name, values in cells.items():
        present = [value for value in values if value not in (None, "")]
        if present and sum(map(_looks_like_image, present)) * 2 > len(present):
            found.append(name)
    return found[0] if len(found) == 1 else None


def _looks_like_image(cell: Any) -> bool:
    value = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
    if isinstance(value, bytes):
        return value.startswith(_MAGIC) or value[8:12] == b"WEBP" or value[4:8] == b"ftyp"
    return isinstance(value, str) and ending(value.strip()) in IMAGE_SUFFIXES and not value.startswith(ADDRESSES)


def image_bytes(value: Any, base: Path, key: str) -> bytes:
    """An image cell (bytes, a path relative to `base`, or {"bytes", "path"}) as bytes. Raises BadImageError."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise BadImageError(key, "the table has neither bytes nor a path for it")
    if value.startswith(ADDRESSES):
        raise BadImageError(key, f"it is an address ({value[:80]}), not a file; download the images first")
    return read_image_file(base / value, key, value)


def read_image_file(path: Path, key: str, name: str) -> bytes:
    """The bytes of an image file; `name` is what messages call it.

    Raises BadImageError when it cannot be read, is no ordinary file (a pipe would never end), or is too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise BadImageError(key, f"{name[:200]!r} is no ordinary file")
        with open(path, "rb") as stream:
            data = stream.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadImageError(key, f"the file {name[:200]!r} cannot be read ({reason})") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImageError(key, f"the file has more than {MAX_IMAGE_BYTES >> 20} MiB")
    return data


class Labels:
    """A label column: `names` and, per row, an index into them (None where missing, out of range or no label)."""

    def __init__(self, values: Sequence[Any], names: Sequence[str] | None) -> None:
        present = {value for value in values if isinstance(value, str | int) and value != ""}
        if names is not None:
            self.names = tuple(names)
            self._index: dict[Any, int] = dict(zip(range(len(names)), range(len(names)), strict=True))
            self._index.update({name: index for index, name in enumerate(names)})
        else:
            ordered = sorted(
                present, key=lambda value: (0, value, "") if isinstance(value, int) else (1, 0, str(value))
            )
            self.names = tuple(str(value) for value in ordered)
            self._index = {value: index for index, value in enumerate(ordered)}
        self._values = values

    def __getitem__(self, row: int) -> int | None:
        value = self._values[row]
        return self._index.get(value) if isinstance(value, int | str) else None


def class_names_of(schema_metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Names of a ClassLabel column from the metadata that `datasets` writes into a Parquet schema; None without."""
    try:
        info = json.loads((schema_metadata or {})[b"huggingface"])
        names = info["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None

"""Which column of a table holds what, and how its cells become samples. Shared by table files, folders and hub sets.

Names are matched without case. Labels are class names themselves, or numbers whose names the Parquet schema carries in
the way the `datasets` library writes them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.errors import UsageError
from reinforced_data.decode import BadImageError

KEY_NAMES = ("key", "__key__", "uid", "id", "image_id", "img_id")
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "image_path", "img_path")
PATH_NAMES = ("path", "filepath", "file_path", "file_name", "filename", "file")
CAPTION_NAMES = ("captions", "caption", "texts", "text", "sentences", "sentence", "description", "title", "alt_text")
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "fine_label")


@dataclass(frozen=True)
class Columns:
    """The names of the columns in use; None where the table has none."""

    image: str
    key: str | None
    captions: str | None
    label: str | None


def find_columns(names: Sequence[str], where: str) -> Columns:
    """The columns of a table by name. Raises UsageError listing what is there when no image column is found."""
    by_lower = {name.lower(): name for name in reversed(names)}

    def first(known: Sequence[str]) -> str | None:
        return next((by_lower[name] for name in known if name in by_lower), None)

    image = first((*IMAGE_NAMES, *PATH_NAMES))
    if image is None:
        raise UsageError(
            f"{where} has no image column: its columns are {', '.join(names) or 'none'}. Name the column of encoded "
            f"images or of image paths one of: {', '.join((*IMAGE_NAMES, *PATH_NAMES))}."
        )
    return Columns(image=image, key=first(KEY_NAMES), captions=first(CAPTION_NAMES), label=first(LABEL_NAMES))


def caption_texts(value: Any) -> list[str]:
    """A caption cell (text, list of texts, JSON object with a caption key, or nothing) as a list of texts."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        lower = {str(name).lower(): item for name, item in value.items()}
        return next((caption_texts(lower[name]) for name in CAPTION_NAMES if name in lower), [])
    if isinstance(value, list | tuple):
        return [text for item in value for text in caption_texts(item)]
    return [str(value)] if isinstance(value, int | float) else []


def image_bytes(value: Any, base: Path, key: str) -> bytes:
    """An image cell (bytes, a path relative to `base`, or {"bytes", "path"}) as bytes. Raises BadImageError."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise BadImageError(key, "the table has neither bytes nor a path for it")
    if value.startswith(("http://", "https://", "s3://", "gs://")):
        raise BadImageError(key, f"it is an address ({value[:80]}), not a file; download the images first")
    try:
        return (base / value).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadImageError(key, f"the file {value!r} cannot be read ({reason})") from error


class Labels:
    """A label column: `names` and, per row, an index into them (None where missing or out of range)."""

    def __init__(self, values: Sequence[Any], names: Sequence[str] | None) -> None:
        present = {value for value in values if value is not None and value != ""}
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

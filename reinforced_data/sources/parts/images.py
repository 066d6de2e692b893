"""Image files below a folder, with captions from files of the same name, or labels from class-named sub-folders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.core.errors import UsageError
from reinforced_data.read_as import ReadAs
from reinforced_data.sample import Caption
from reinforced_data.source import NO_COLUMNS, ColumnNames
from reinforced_data.sources.parts.columns import json_captions, read_image_file
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES, Found
from reinforced_data.sources.parts.image_list import Asked, list_images
from reinforced_data.sources.parts.kept.compact import Picked
from reinforced_data.sources.parts.kept.shelf import Sheet, shelved
from reinforced_data.sources.parts.listing import check_tags_occur
from reinforced_data.sources.parts.text import decoded_file


class ImageListing:
    """Image files with sidecars, or class-named sub-folders, or images alone.

    Args:
        found: the files; keys are relative to its folder.
        root, licence: for reports.
        columns: captions by a key of the .json sidecars, or by the ending of files; see `ColumnNames`.
        classes: True = every top sub-folder is a class, False = none is, None = those that are words.

    Raises UsageError when there are no image files, or when some sub-folders are words and others are not.
    """

    def __init__(
        self,
        found: Found,
        root: Path,
        licence: str,
        columns: ColumnNames = NO_COLUMNS,
        classes: bool | None = None,
    ) -> None:
        self.name, self.location, self.licence = root.name, str(root), licence
        self._folder, self._names = found.folder, found.names
        self._tagged = columns.sources()
        self._only = bool(columns.captions) and not columns.lenient  # no other captions count
        if columns.image and not columns.lenient:
            raise UsageError(
                f"The image column {columns.image!r} is of a table, and {str(root)!r} was read as images without one. Name the "
                "table: --data TABLE."
            )
        endings = tuple(f".{name.lower().lstrip('.')}" for name in columns.captions)
        asked = Asked(str(root), endings, self._only, classes)
        identity = ["images", found.mark, endings, self._only, classes, IMAGE_SUFFIXES]
        self._sheet = shelved(identity, found.much, lambda folder: list_images(found, asked, folder), Sheet.kept)
        columns_of = self._sheet.numbers
        self.keys: Sequence[str] = Picked(self._names, columns_of["image"])
        self._texts, self._jsons, self._labels = columns_of["text"], columns_of["json"], columns_of.get("label")
        self.parts: Sequence[str | None] | None = self._sheet.coded("part")
        self.class_names: tuple[str, ...] = tuple(self._sheet.facts["class_names"])
        self.fingerprint: str = self._sheet.facts["fingerprint"]
        check_tags_occur(self, self._tagged)
        self.read_as = ReadAs.of(self._sheet.facts["read_as"])

    def remember(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` finds out about this listing's rows, kept with it where it is kept."""
        return self._sheet.remember(name, find)

    def image(self, row: int) -> bytes:
        """The row's image, encoded as found; BadImageError when it cannot be read."""
        return read_image_file(self._folder / self.keys[row], self.keys[row], self.keys[row])

    def captions(self, row: int) -> list[Caption]:
        """The row's captions. A .txt holds real captions and goes before a .json; a damaged sidecar counts as having none."""
        lines = [Caption(line) for line in self._read(self._texts[row]).splitlines() if line.strip()]
        try:
            told, tagged = json_captions(self._read(self._jsons[row]), self._tagged)
        except (ValueError, RecursionError):
            told, tagged = [], []
        return [*lines, *tagged] if self._only else [*(lines or told), *tagged]

    def _read(self, file: int) -> str:
        return "" if file < 0 else decoded_file(self._folder / self._names[int(file)])[0]

    def label(self, row: int) -> int | None:
        """The row's index into `class_names`, None when it has none."""
        return int(self._labels[row]) if self._labels is not None else None

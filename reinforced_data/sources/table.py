"""Table files as data: Parquet (bytes or paths), CSV, TSV and JSONL (paths), one row per image or per caption.

Rows of the same image path become one sample with several captions. Images are read when asked for: from disk, or a
Parquet row group at a time. What lies where is listed once, in memory or, of much data, in the cache folder.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from distill.core.atomic import sha256_file, sha256_json
from distill.core.errors import DistillError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.read_as import ReadAs, listed
from reinforced_data.sample import Caption
from reinforced_data.source import NO_COLUMNS, SOURCES, ColumnNames, Source, Split
from reinforced_data.sources.parts.columns import (
    NO_CAPTION_COLUMN,
    Columns,
    captions_told,
    class_names_of,
    image_bytes,
    row_captions,
)
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES, Found, walk
from reinforced_data.sources.parts.kept.compact import Marks
from reinforced_data.sources.parts.kept.shelf import Sheet, is_much, shelved
from reinforced_data.sources.parts.listing import serve
from reinforced_data.sources.parts.parquet import RowGroups, footer_sha256, open_parquet, row_groups
from reinforced_data.sources.parts.same import Grouped, same_images, told
from reinforced_data.sources.parts.splits import Choice
from reinforced_data.sources.parts.tables.listing import RowKeys, TableWriter
from reinforced_data.sources.parts.tables.paths import part_lists, relative_paths
from reinforced_data.sources.parts.tables.rows import ParquetRows, Read, TextRows

_ROW_BYTES = 100  # of a text table, about
_sheets: OrderedDict[str, Sheet] = (
    OrderedDict()
)  # of Parquet files, since the parts of a place are opened one after another
_MOST_SHEETS = 4


class TableListing:
    """The rows of table files of one kind (all Parquet, or one text table).

    Args:
        files: in order; rows are numbered through them.
        name, licence: for reports.
        found: what lies in the folder that the tables are of; paths and keys are then relative to that folder.
        columns: see `open.open_source`.
        read: the files as they were read before; None = they are read here.

    Raises:
        DistillError: a file cannot be read. UsageError: it has no image column.
    """

    def __init__(
        self,
        files: list[Path],
        name: str,
        location: str,
        licence: str = "unknown",
        columns: ColumnNames = NO_COLUMNS,
        found: Found | None = None,
        read: Read | None = None,
    ) -> None:
        self.name, self.location, self.licence = name, location, licence
        self._base = found.folder if found else files[0].parent
        if is_parquet(files[0]):
            sheet = _parquet_sheet(files, columns, location)
        else:
            sheet = _text_sheet(files, columns, self._base, found, read)
        self._sheet = sheet
        facts, numbers = sheet.facts, sheet.numbers
        self._columns = Columns.of(facts["columns"])
        self._groups = Grouped(numbers["starts"], numbers["rows"]) if "starts" in numbers else None
        self._paths, self._texts, self._labels = (
            sheet.names.get("image"),
            sheet.names.get("texts"),
            numbers.get("label"),
        )
        self._images: RowGroups[Any] | None = None
        if self._paths is None:
            self._images = RowGroups(files, _same, columns=[self._columns.image], layout=numbers["groups"])
        self.keys: Sequence[str] = RowKeys(sheet, self._groups, files[0].stem)
        self.parts: Sequence[str | None] | None = sheet.coded("part")
        self.class_names: tuple[str, ...] = tuple(facts["class_names"])
        self.fingerprint: str = facts["fingerprint"]
        self.read_as = ReadAs.of(facts["read_as"])

    def remember(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` finds out about this listing's rows, kept with it where it is kept."""
        return self._sheet.remember(name, find)

    def _rows(self, sample: int) -> Sequence[int]:
        return self._groups[sample] if self._groups is not None else (sample,)

    def image(self, row: int) -> bytes:
        """The row's image, encoded as found; BadImageError when it cannot be read."""
        first = self._rows(row)[0]
        if self._images is None:
            assert self._paths is not None
            return image_bytes(json.loads(self._paths[first]), self._base, self.keys[row])
        try:
            table, place = self._images.find(first)
        except DistillError as error:  # a damaged row group costs its rows
            raise BadImageError(self.keys[row], str(error)) from error
        return image_bytes(table.column(0)[place].as_py(), self._base, self.keys[row])

    def captions(self, row: int) -> list[Caption]:
        """The row's captions as found, perhaps none."""
        if self._texts is None:
            return []
        names = self._columns.texts
        cells = (dict(zip(names, json.loads(self._texts[one]), strict=True)) for one in self._rows(row))
        return [caption for some in cells for caption in row_captions(some, self._columns)]

    def label(self, row: int) -> int | None:
        """The row's index into `class_names`, None when it has none."""
        found = -1 if self._labels is None else int(self._labels[row])
        return None if found < 0 else found


def is_parquet(file: Path) -> bool:
    """Whether the file's ending says Parquet."""
    return file.suffix.lower() == ".parquet"


def _same(table: Any) -> Any:
    return table


def _stats(files: Sequence[Path]) -> list[list[Any]]:
    return [[str(file.absolute()), (facts := file.stat()).st_size, facts.st_mtime_ns] for file in files]


def _read_as(
    files: Sequence[Path], columns: Columns, notes: Sequence[str], unread: dict[str, int]
) -> Callable[..., Any]:
    """(names of classes, groups) -> how the tables were read, as JSON."""

    def said(class_names: Sequence[str], groups: Grouped | None) -> dict[str, Any]:
        # Where captions are made from class names, that no column has them is no news.
        of_columns = [note for note in columns.notes if not (class_names and note.startswith(NO_CAPTION_COLUMN))]
        return asdict(
            ReadAs(
                f"table {listed(file.name for file in files)}",
                captions_told(columns, len(class_names)),
                len(class_names),
                notes=(*notes, *of_columns, *filter(None, [told(groups)])),
                unread=unread,
            )
        )

    return said


# --- Parquet files ---


def _parquet_sheet(files: list[Path], asked: ColumnNames, location: str) -> Sheet:
    stats = _stats(files)
    identity = ["parquet", stats, asked.to_json(), asked.lenient]
    mark = sha256_json(identity)
    if mark not in _sheets:
        with open_parquet(files[0]) as first:
            much = is_much(sum(size for _, size, _ in stats), first.metadata.num_rows * len(files))
        _sheets[mark] = shelved(identity, much, partial(_list_parquet, files, asked, location), Sheet.kept)
        while len(_sheets) > _MOST_SHEETS:
            _sheets.popitem(last=False)
    return _sheets[mark]


def _list_parquet(files: list[Path], asked: ColumnNames, location: str, folder: Path | None) -> Sheet:
    rows = ParquetRows(files, asked, location)
    writer = TableWriter(rows.columns, by_path=rows.by_path, folder=folder)
    for row in rows:
        writer.add(row)
    layout = row_groups(files)
    writer.array("groups", layout)
    columns, label = rows.columns, rows.columns.label
    size = sum(file.stat().st_size for file in files)

    def same(ids: Callable[[], Iterable[str | None]] | None) -> Grouped | None:
        return same_images(lambda: _image_cells(files, columns.image), size, columns.key, ids)

    digests = [[file.name, file.stat().st_size, footer_sha256(file)] for file in files]
    said = _read_as(files, columns, (), {})
    return writer.done(
        same,
        class_names_of(rows.schema_metadata, label) if label else None,
        lambda names, groups: {"read_as": said(names, groups), "fingerprint": sha256_json(digests)},
    )


def _image_cells(files: list[Path], column: str) -> Iterator[bytes | None]:
    """The image of every row of Parquet files; None where it cannot be had."""
    groups = RowGroups(files, _same, columns=[column], budget_bytes=0)  # each is looked at once
    for row in range(len(groups)):
        try:
            table, place = groups.find(row)
            cell = table.column(0)[place].as_py()
        except DistillError:  # a damaged row group costs its rows, when they are asked for
            cell = None
        found = cell.get("bytes") if isinstance(cell, dict) else cell
        yield found if isinstance(found, bytes) else None


# --- text tables ---


def _text_sheet(files: list[Path], asked: ColumnNames, base: Path, found: Found | None, read: Read | None) -> Sheet:
    """The listing of text tables, which follows from them and from the files that their paths lead to.

    Of a table by itself the files around it are looked at only where a path leads to none; where they are others by now, or
    other ones, it is listed again. A path that leads to a file means that file, and stays what it is.
    """
    stats = _stats(files)
    identity = [
        "text",
        stats,
        str(base.absolute()),
        found and found.mark,
        asked.to_json(),
        asked.lenient,
        IMAGE_SUFFIXES,
    ]
    much = is_much(rows=sum(size for _, size, _ in stats) // _ROW_BYTES) or (found is not None and found.much)
    make = partial(_list_text, files, asked, base, found, read)
    sheet = shelved(identity, much, make, Sheet.kept)
    around = sheet.facts["around"]
    if sheet.folder is not None and around is not None and (now := walk(base).mark) != around:
        sheet = shelved([*identity, now], much, make, Sheet.kept)
    return sheet


def _list_text(
    files: list[Path], asked: ColumnNames, base: Path, found: Found | None, read: Read | None, folder: Path | None
) -> Sheet:
    rows = TextRows(files, asked, base, found, read)
    writer = TableWriter(rows.columns, by_path=True, folder=folder)
    for row in rows:
        writer.add(row)
    unread: dict[str, int] = {}
    if found is not None:
        used = [file.relative_to(found.folder).as_posix() for file in files]
        unread = found.unread([*used, *part_lists(found)], [found.image_rows])
        named = Marks(relative_paths(writer.paths(), found.folder))
        known = sum(name in named for name in found.images)
        if known < len(found.images):
            unread["images that no table names"] = len(found.images) - known
    said = _read_as(files, rows.columns, rows.notes, unread)
    digests = [[file.name, sha256_file(file)] for file in files]
    facts = {"around": rows.around, "fingerprint": sha256_json(digests)}
    return writer.done(lambda ids: None, None, lambda names, groups: {**facts, "read_as": said(names, groups)})


@SOURCES.register("table")
def open_table(location: str, split: Split, limit: int | None = None, columns: ColumnNames = NO_COLUMNS) -> Source:
    """A .csv, .tsv, .jsonl or .parquet file of images (or their paths) and captions; a part is held out for "eval"."""
    path = Path(location.removeprefix("table:")).expanduser()
    listing = TableListing([path], path.stem, str(path), columns=columns)
    return serve(listing, Choice((), hold_out=split in ("train", "eval")), split, limit, f"The table {str(path)!r}")

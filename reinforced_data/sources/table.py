"""Table files as data: Parquet (bytes or paths), CSV, TSV and JSONL (paths), one row per image or per caption.

Rows of the same image path become one sample with several captions. Images are read when asked for: from disk, or a
Parquet row group at a time. A list of the file's keys is kept in memory, its images never.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from distill.core.atomic import sha256_file, sha256_json
from distill.core.errors import DistillError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.read_as import ReadAs, listed
from reinforced_data.sample import Caption
from reinforced_data.source import NO_COLUMNS, SOURCES, ColumnNames, Source, Split
from reinforced_data.sources.parts.columns import (
    ADDRESSES,
    NO_CAPTION_COLUMN,
    Labels,
    captions_told,
    class_names_of,
    column_of_images,
    find_columns,
    image_bytes,
    row_captions,
)
from reinforced_data.sources.parts.files import Found, walk
from reinforced_data.sources.parts.kept.compact import Names
from reinforced_data.sources.parts.listing import serve
from reinforced_data.sources.parts.parquet import RowGroups, first_cells, footer_sha256, open_parquet, read_columns
from reinforced_data.sources.parts.same import same_images, told
from reinforced_data.sources.parts.splits import Choice, part_of
from reinforced_data.sources.parts.text_table import Paths, Rows, first_rows, part_lists, read_rows


class ArrowColumn(Sequence[Any]):
    """A pyarrow column whose cells become Python values one at a time."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: Any) -> Any:
        return self._column[row].as_py()


class Read(NamedTuple):
    """What is known of text tables already: where their paths lead, and each one's rows and notes. They are used up."""

    paths: Paths
    rows: Mapping[Path, tuple[Rows, list[str]]]


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
        self._named = columns
        self._base = found.folder if found else files[0].parent
        self._known = read.paths if read else None
        self._lists = part_lists(found) if found else {}
        self._notes: list[str] = []
        self.parts: Sequence[str | None] | None = None
        self._images: RowGroups[Any] | None = None
        values = (
            self._load_parquet(files) if is_parquet(files[0]) else self._load_text(files, read.rows if read else {})
        )
        paths = values.get(self._columns.image)
        count = len(paths) if paths is not None else len(self._images or ())
        self._paths = paths
        self._groups: Sequence[Sequence[int]] | None = None
        if paths is not None and count and isinstance(paths[0], str):
            self._groups = _same_path(paths)
        elif self._images is not None and self._columns.texts:
            stats = tuple((file, file.stat().st_mtime_ns) for file in files)
            key = self._columns.key
            self._groups = _same_bytes(stats, self._columns.image, key, tuple(values[key]) if key else None)
        self._texts = {name: values[name] for name in self._columns.texts}
        label = self._columns.label
        self._labels = Labels(values[label], self._label_names) if label in values and label is not None else None
        self.class_names = self._labels.names if self._labels else ()
        self.keys = self._make_keys(values, count, files)
        if self.parts is not None and self._groups is not None:
            self.parts = [self.parts[rows[0]] for rows in self._groups]
        captions = captions_told(self._columns, len(self.class_names))
        self.read_as = ReadAs(
            f"table {listed(file.name for file in files)}",
            captions,
            len(self.class_names),
            notes=(*self._notes, *self._told_of_columns(), *filter(None, [told(self._groups)])),
            unread=self._unread(found, files),
        )

    def _told_of_columns(self) -> list[str]:
        """Where captions are made from class names, that no column has them is no news."""
        return [note for note in self._columns.notes if not (self.class_names and note.startswith(NO_CAPTION_COLUMN))]

    def _load_parquet(self, files: list[Path]) -> dict[str, Sequence[Any]]:
        import pyarrow as pa

        first = open_parquet(files[0])
        self._columns = find_columns(
            first.schema_arrow.names,
            f"The table {str(files[0])!r}",
            self._named,
            guess=lambda: column_of_images(first_cells(files[0])),
        )
        wanted = [
            name for name in (self._columns.key, *self._columns.texts, self._columns.label, self._columns.split) if name
        ]
        image_type = first.schema_arrow.field(self._columns.image).type
        if pa.types.is_string(image_type) or pa.types.is_large_string(image_type):
            wanted.append(self._columns.image)
        else:
            self._images = RowGroups(files, _same, columns=[self._columns.image])
        tables, digests = [], []
        for file in files:
            with open_parquet(file) as parquet:
                missing = set(wanted) - set(parquet.schema_arrow.names)
                if missing:
                    raise DistillError(
                        f"{str(file)!r} lacks the column(s) {', '.join(sorted(missing))} that {str(files[0])!r} has. "
                        "Give all the files of a set the same columns."
                    )
                tables.append(read_columns(parquet, wanted, file))
            digests.append([file.name, file.stat().st_size, footer_sha256(file)])
        label = self._columns.label
        self._label_names = class_names_of(first.schema_arrow.metadata, label) if label else None
        self.fingerprint = sha256_json(digests)
        try:
            whole = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise DistillError(
                f"The Parquet files of {self.location!r} do not fit together ({error}). Give the columns of all files "
                "of a set the same types."
            ) from error
        if self._columns.split:
            self.parts = [None if part is None else str(part) for part in whole[self._columns.split].to_pylist()]
        return {name: ArrowColumn(whole[name]) for name in wanted}

    def _load_text(self, files: list[Path], read: Mapping[Path, tuple[Rows, list[str]]]) -> dict[str, Sequence[Any]]:
        rows: Rows = []
        owner: list[Path] = []
        for file in files:
            found, notes = read[file] if file in read else read_rows(file, self._named)
            rows += found
            owner += [file] * len(found)
            self._notes += notes
        names = list(dict.fromkeys(name for row in rows for name in row))
        self._columns = find_columns(
            names,
            f"The table {str(files[0])!r}",
            self._named,
            by_id=True,
            guess=lambda: column_of_images(first_rows(rows)),
        )
        image = self._columns.image
        bases = {file: file.parent for file in files}
        for row, file in zip(rows, owner, strict=True):
            row[image] = self._place(row.get(image), bases[file])
        self.parts = self._parts_of(rows, owner)
        self._label_names = None
        self.fingerprint = sha256_json([[file.name, sha256_file(file)] for file in files])
        return {name: [row.get(name) for row in rows] for name in names}

    def _unread(self, found: Found | None, files: list[Path]) -> dict[str, int]:
        if found is None:
            return {}
        tables = [file.relative_to(found.folder).as_posix() for file in files]
        unread = found.unread(tables, used_rows=[found.image_rows])
        known = {*map(str, self._paths or ())} & {*found.images}
        if self._paths is not None and len(known) < len(found.images):
            unread["images that no table names"] = len(found.images) - len(known)
        return unread

    def _place(self, cell: Any, base: Path) -> Any:
        """The path of an image relative to the base: the cell as it is where a file lies there, else what it may mean."""
        if not isinstance(cell, str | int) or str(cell).startswith(ADDRESSES):
            return cell
        try:
            if base == self._base and isinstance(cell, str) and (base / cell).is_file():
                return cell
        except (OSError, ValueError):
            return cell
        if self._known is None:
            self._known = Paths(self._base, walk(self._base).images)
        return self._known.find(cell, base) or str(cell)

    def _parts_of(self, rows: Rows, owner: list[Path]) -> list[str | None] | None:
        """Per row its part: by the split column, by the name of its table, or by the folder of its image."""
        column, lists, image = self._columns.split, self._lists, self._columns.image
        named = {file: _first_part(re.split(r"[-_. ]", file.stem)) for file in {*owner}}
        below: dict[str, str | None] = {}  # a folder of an image -> the part that it says
        parts: list[str | None] = []
        for row, file in zip(rows, owner, strict=True):
            folder, _, name = str(row[image]).rpartition("/")
            said = part_of(str(row.get(column))) if column else lists.get(name)
            if folder not in below:
                below[folder] = _first_part(folder.split("/"))
            parts.append(said or named[file] or below[folder])
        return parts if any(parts) else None

    def _make_keys(self, values: dict[str, Sequence[Any]], count: int, files: list[Path]) -> Names:
        samples = [rows[0] for rows in self._groups] if self._groups is not None else range(count)
        if self._columns.key is not None:
            column = values[self._columns.key]
            return Names.of(str(column[row]) for row in samples)
        if self._paths is not None:
            return Names.of(_path_of(self._paths[row]) or f"row-{row:08d}" for row in samples)
        return Names.of(f"{files[0].stem}-{row:08d}" for row in samples)

    def _rows(self, sample: int) -> Sequence[int]:
        return self._groups[sample] if self._groups is not None else (sample,)

    def image(self, row: int) -> bytes:
        """The row's image, encoded as found; BadImageError when it cannot be read."""
        first = self._rows(row)[0]
        if self._images is None:
            assert self._paths is not None
            return image_bytes(self._paths[first], self._base, self.keys[row])
        try:
            table, place = self._images.find(first)
        except DistillError as error:  # a damaged row group costs its rows
            raise BadImageError(self.keys[row], str(error)) from error
        return image_bytes(table.column(0)[place].as_py(), self._base, self.keys[row])

    def captions(self, row: int) -> list[Caption]:
        """The row's captions as found, perhaps none."""
        rows = [{name: column[one] for name, column in self._texts.items()} for one in self._rows(row)]
        return [caption for cells in rows for caption in row_captions(cells, self._columns)]

    def label(self, row: int) -> int | None:
        """The row's index into `class_names`, None when it has none."""
        return self._labels[self._rows(row)[0]] if self._labels else None


def _first_part(words: list[str]) -> str | None:
    return next((part for word in words if (part := part_of(word))), None)


def is_parquet(file: Path) -> bool:
    """Whether the file's ending says Parquet."""
    return file.suffix.lower() == ".parquet"


def _same(table: Any) -> Any:
    return table


def _path_of(value: Any) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) else ""


@lru_cache(maxsize=4)
def _same_bytes(
    files: tuple[tuple[Path, int], ...], column: str, key: str | None, ids: tuple[Any, ...] | None
) -> list[list[int]] | None:
    """Rows of Parquet files grouped by equal image; kept, since the parts of a place are opened one after another."""
    groups = RowGroups([file for file, _ in files], _same, columns=[column])

    def images() -> Iterator[bytes | None]:
        for row in range(len(groups)):
            try:
                table, place = groups.find(row)
                cell = table.column(0)[place].as_py()
            except DistillError:  # a damaged row group costs its rows, when they are asked for
                cell = None
            found = cell.get("bytes") if isinstance(cell, dict) else cell
            yield found if isinstance(found, bytes) else None

    return same_images(images, sum(file.stat().st_size for file, _ in files), key, ids)


def _same_path(paths: Sequence[Any]) -> list[list[int]]:
    """Rows grouped by equal path, in order of first appearance; a row without a path stays alone."""
    groups: dict[Any, list[int]] = {}
    for row in range(len(paths)):
        groups.setdefault(paths[row] or row, []).append(row)
    return list(groups.values())


@SOURCES.register("table")
def open_table(location: str, split: Split, limit: int | None = None, columns: ColumnNames = NO_COLUMNS) -> Source:
    """A .csv, .tsv, .jsonl or .parquet file of images (or their paths) and captions; a part is held out for "eval"."""
    path = Path(location.removeprefix("table:")).expanduser()
    listing = TableListing([path], path.stem, str(path), columns=columns)
    return serve(listing, Choice((), hold_out=split in ("train", "eval")), split, limit, f"The table {str(path)!r}")

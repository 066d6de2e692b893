"""Table files as data: Parquet (bytes or paths), CSV, TSV and JSONL (paths), one row per image or per caption.

Rows of the same image path become one sample with several captions. Images are read when asked for: from disk, or a
Parquet row group at a time. A list of the file's keys is kept in memory, its images never.
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.core.atomic import sha256_file, sha256_json
from distill.core.errors import DistillError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.sample import Caption
from reinforced_data.source import SOURCES, Source, Split
from reinforced_data.sources.parts.columns import Labels, class_names_of, find_columns, image_bytes, row_captions
from reinforced_data.sources.parts.listing import ListedSource, held_out_rows
from reinforced_data.sources.parts.parquet import RowGroups, open_parquet

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
MAX_CELL_CHARS = 64 << 20  # of a CSV cell; Python's own limit of 128 KiB would refuse a whole table for one caption


class ArrowColumn(Sequence[Any]):
    """A pyarrow column whose cells become Python values one at a time."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: Any) -> Any:
        return self._column[row].as_py()


class TableListing:
    """The rows of table files of one kind (all Parquet, or one text table).

    Args:
        files: in order; rows are numbered through them.
        name, licence: for reports.
        caption_columns: see `open.open_source`.

    Raises:
        DistillError: a file cannot be read. UsageError: it has no image column.
    """

    def __init__(
        self,
        files: list[Path],
        name: str,
        location: str,
        licence: str = "unknown",
        caption_columns: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.location, self.licence = name, location, licence
        self._caption_columns = caption_columns
        self._base = files[0].parent
        self._images: RowGroups[Any] | None = None
        values = self._load_parquet(files) if files[0].suffix.lower() == ".parquet" else self._load_text(files)
        paths = values.get(self._columns.image)
        count = len(paths) if paths is not None else len(self._images or ())
        self._paths = paths
        self._groups = _same_path(paths) if paths is not None and count and isinstance(paths[0], str) else None
        self._texts = {name: values[name] for name in self._columns.texts}
        label = self._columns.label
        self._labels = Labels(values[label], self._label_names) if label in values and label is not None else None
        self.class_names = self._labels.names if self._labels else ()
        self.keys = self._make_keys(values, count, files)

    def _load_parquet(self, files: list[Path]) -> dict[str, Sequence[Any]]:
        import pyarrow as pa

        first = open_parquet(files[0])
        self._columns = find_columns(first.schema_arrow.names, f"The table {str(files[0])!r}", self._caption_columns)
        wanted = [name for name in (self._columns.key, *self._columns.texts, self._columns.label) if name]
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
                tables.append(_read_columns(parquet, wanted, file))
            digests.append([file.name, file.stat().st_size, _footer_sha256(file)])
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
        return {name: ArrowColumn(whole[name]) for name in wanted}

    def _load_text(self, files: list[Path]) -> dict[str, Sequence[Any]]:
        rows = [row for file in files for row in read_rows(file)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        self._columns = find_columns(names, f"The table {str(files[0])!r}", self._caption_columns)
        self._label_names = None
        self.fingerprint = sha256_json([[file.name, sha256_file(file)] for file in files])
        return {name: [row.get(name) for row in rows] for name in names}

    def _make_keys(self, values: dict[str, Sequence[Any]], count: int, files: list[Path]) -> list[str]:
        samples = [rows[0] for rows in self._groups] if self._groups is not None else range(count)
        if self._columns.key is not None:
            column = values[self._columns.key]
            return [str(column[row]) for row in samples]
        if self._paths is not None:
            return [_path_of(self._paths[row]) or f"row-{row:08d}" for row in samples]
        return [f"{files[0].stem}-{row:08d}" for row in samples]

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


def _same(table: Any) -> Any:
    return table


def _read_columns(parquet: Any, names: list[str], file: Path) -> Any:
    """Whole columns of an open Parquet file. Raises DistillError naming the file when they are damaged."""
    import pyarrow as pa

    try:
        table = parquet.read(columns=names)
        table.validate(full=True)  # strings that are not UTF-8 would raise later, in the middle of a run
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise DistillError(
            f"The column(s) {', '.join(names)} of {str(file)!r} cannot be read ({words}). The file is damaged; copy or "
            "make it again."
        ) from error


def _path_of(value: Any) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) else ""


def _same_path(paths: Sequence[Any]) -> list[list[int]]:
    """Rows grouped by equal path, in order of first appearance; a row without a path stays alone."""
    groups: dict[Any, list[int]] = {}
    for row in range(len(paths)):
        groups.setdefault(paths[row] or row, []).append(row)
    return list(groups.values())


def _footer_sha256(file: Path) -> str:
    """Hash of a Parquet file's footer: schema, row counts, offsets and sizes of every column chunk."""
    with open(file, "rb") as stream:
        stream.seek(-8, 2)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, 2)
        return hashlib.sha256(stream.read(length)).hexdigest()


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV or JSONL file. Raises DistillError naming file and line when it cannot be read."""
    line = 0
    rows: list[dict[str, Any]] = []
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            if file.suffix.lower() == ".jsonl":
                for text in stream:
                    line += 1
                    row = json.loads(text) if text.strip() else {}
                    if not isinstance(row, dict):
                        raise ValueError("not a JSON object")
                    rows.extend([row] if row else [])
                return rows
            csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARS))
            reader = csv.DictReader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            for record in reader:
                line = reader.line_num
                rows.append({name: value for name, value in record.items() if isinstance(name, str)})
            return rows
    except (OSError, ValueError, RecursionError, csv.Error) as error:  # ValueError: JSON and Unicode
        raise DistillError(
            f"The table {str(file)!r} cannot be read at or after line {line} ({error}). It must be UTF-8, with a "
            "header line (CSV, TSV) or one JSON object a line (JSONL)."
        ) from error


@SOURCES.register("table")
def open_table(
    location: str, split: Split, limit: int | None = None, caption_columns: Mapping[str, str] | None = None
) -> Source:
    """A .csv, .tsv, .jsonl or .parquet file of images (or their paths) and captions; a part is held out for "eval"."""
    path = Path(location.removeprefix("table:")).expanduser()
    listing = TableListing([path], path.stem, str(path), caption_columns=caption_columns)
    return ListedSource(listing, held_out_rows(listing.keys, split, f"The table {str(path)!r}"), split, limit)

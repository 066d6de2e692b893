"""The rows of tables as they are listed: of Parquet files a row group at a time, of text tables a line at a time."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distill.core.errors import DistillError
from reinforced_data.source import ColumnNames
from reinforced_data.sources.parts.columns import ADDRESSES, Columns, column_of_images, find_columns
from reinforced_data.sources.parts.files import Found, walk
from reinforced_data.sources.parts.parquet import first_cells, open_parquet, read_group
from reinforced_data.sources.parts.splits import part_of
from reinforced_data.sources.parts.tables.paths import Paths, listed_parts
from reinforced_data.sources.parts.tables.text import TextTable, first_rows, read_rows


class Row(NamedTuple):
    """One row: its image's path (None where images are bytes), cells of key, label and captions, and the part that it says."""

    image: Any
    key: Any
    label: Any
    part: str | None
    texts: list[Any]


class ParquetRows:
    """The rows of Parquet files without their images.

    Attributes:
        columns: which they are. by_path: whether images are paths. schema_metadata: of the first file.

    Raises UsageError when there is no image column, DistillError when files cannot be read or do not fit together.
    """

    def __init__(self, files: Sequence[Path], asked: ColumnNames, location: str) -> None:
        import pyarrow as pa

        self._files = files
        with open_parquet(files[0]) as first:
            schema = first.schema_arrow
        where = f"The table {str(files[0])!r}"
        self.columns: Columns = find_columns(
            schema.names, where, asked, guess=lambda: column_of_images(first_cells(files[0]))
        )
        found = self.columns
        self._wanted = [name for name in (found.key, *found.texts, found.label, found.split) if name]
        kind = schema.field(found.image).type
        self.by_path = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if self.by_path:
            self._wanted.append(found.image)
        self.schema_metadata = schema.metadata
        try:
            self._schema = pa.unify_schemas([self._schema_of(file) for file in files], promote_options="permissive")
        except pa.ArrowException as error:
            raise DistillError(
                f"The Parquet files of {location!r} do not fit together ({error}). Give the columns of all files "
                "of a set the same types."
            ) from error

    def _schema_of(self, file: Path) -> Any:
        import pyarrow as pa

        with open_parquet(file) as parquet:
            schema = parquet.schema_arrow
        missing = set(self._wanted) - set(schema.names)
        if missing:
            raise DistillError(
                f"{str(file)!r} lacks the column(s) {', '.join(sorted(missing))} that {str(self._files[0])!r} has. "
                "Give all the files of a set the same columns."
            )
        return pa.schema([schema.field(name).remove_metadata() for name in self._wanted])

    def __iter__(self) -> Iterator[Row]:
        for file in self._files:
            with open_parquet(file) as parquet:
                for group in range(parquet.metadata.num_row_groups):
                    table = read_group(parquet, group, self._wanted, file) if self._wanted else None
                    yield from self._rows(table, parquet.metadata.row_group(group).num_rows)

    def _rows(self, table: Any, count: int) -> Iterator[Row]:
        import pyarrow as pa

        if table is not None:
            table = pa.concat_tables(
                [self._schema.empty_table(), table.replace_schema_metadata(None)], promote_options="permissive"
            )
        found = self.columns

        def cells(name: str | None) -> list[Any]:
            return table[name].to_pylist() if name else [None] * count

        keys, labels, parts = cells(found.key), cells(found.label), cells(found.split)
        images = cells(found.image if self.by_path else None)
        texts = [cells(name) for name in found.texts]
        for place in range(count):
            part = parts[place]
            yield Row(
                images[place],
                keys[place],
                labels[place],
                None if part is None else str(part),
                [column[place] for column in texts],
            )


class Read(NamedTuple):
    """What is known of text tables already: where their paths lead, and the rows of each."""

    paths: Paths
    tables: Mapping[Path, TextTable]


class TextRows:
    """The rows of text tables.

    Args:
        base: what paths are relative to. found: what lies in it, where that is known. read: tables that were looked at before.

    Attributes:
        columns: which they are. around: the mark of what lies in `base`, where that had to be looked at for the paths.

    Raises UsageError when there is no image column, DistillError when a file cannot be read.
    """

    by_path = True

    def __init__(
        self, files: Sequence[Path], asked: ColumnNames, base: Path, found: Found | None, read: Read | None
    ) -> None:
        self._files, self._base = files, base
        self._tables = {
            file: read.tables[file] if read and file in read.tables else read_rows(file, asked) for file in files
        }
        self._paths = read.paths if read else None
        self._lists = listed_parts(found) if found else {}
        self.around: str | None = None
        names = dict.fromkeys(name for table in self._tables.values() for row in table for name in row)
        self.columns: Columns = find_columns(
            [*names],
            f"The table {str(files[0])!r}",
            asked,
            by_id=True,
            guess=lambda: column_of_images(first_rows(self._first())),
        )

    def _first(self) -> list[dict[str, Any]]:
        return [row for table in self._tables.values() for row in table.first()]

    @property
    def notes(self) -> list[str]:
        """How the files were read; after a look at all rows."""
        return [note for table in self._tables.values() for note in table.notes]

    def __iter__(self) -> Iterator[Row]:
        found = self.columns
        below: dict[str, str | None] = {}  # a folder of an image -> the part that it says
        for file, table in self._tables.items():
            named = _first_part(re.split(r"[-_. ]", file.stem))
            for row in table:
                image = self._place(row.get(found.image), file.parent)
                folder, _, name = str(image).rpartition("/")
                said = part_of(str(row.get(found.split))) if found.split else self._lists.get(name)
                if folder not in below:
                    below[folder] = _first_part(folder.split("/"))
                cells = [row.get(name) for name in found.texts]
                key, label = (row.get(name) if name else None for name in (found.key, found.label))
                yield Row(image, key, label, said or named or below[folder], cells)

    def _place(self, cell: Any, base: Path) -> Any:
        """The path of an image relative to the base: the cell as it is where a file lies there, else what it may mean."""
        if not isinstance(cell, str | int) or str(cell).startswith(ADDRESSES):
            return cell
        try:
            if base == self._base and isinstance(cell, str):
                for path in dict.fromkeys((cell, cell.replace("\\", "/"))):  # as Windows writes it
                    if (base / path).is_file():
                        return path
        except (OSError, ValueError):
            return cell
        if self._paths is None:
            around = walk(self._base)
            self._paths, self.around = Paths(self._base, around.images), around.mark
        return self._paths.find(cell, base) or str(cell)


def _first_part(words: list[str]) -> str | None:
    return next((part for word in words if (part := part_of(word))), None)

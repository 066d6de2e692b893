"""Text tables as rows: CSV (whatever separates its cells), TSV, JSONL, caption lists, and the JSON that sets come with.

JSON is read as COCO's captions_*.json, Karpathy's dataset_*.json, a list of objects, or file name -> captions. What was done
to read a file is said in its notes.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError
from reinforced_data.read_as import counted
from reinforced_data.source import NO_COLUMNS, ColumnNames
from reinforced_data.sources.parts.columns import (
    ADDRESSES,
    CAPTION_COLUMN,
    CAPTION_NAMES,
    IMAGE_NAMES,
    KEY_NAMES,
    PATH_NAMES,
    column_of_images,
)
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES, ending
from reinforced_data.sources.parts.text import table_encoding

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".token")
MAX_CELL_CHARS = 64 << 20  # of a CSV cell; Python's own limit of 128 KiB would refuse a whole table for one caption
_SEPARATORS = {",": "','", "\t": "tabs", ";": "';'", "|": "'|'"}
_TOKEN_LINE = re.compile(r"(\S.*?\.\w{3,4})#\d+\s+(.+)")  # Flickr8k.token.txt: "name.jpg#0<tab>caption"

FIRST_ROWS = 100  # are looked at to tell what columns hold
HELD_BYTES = 16 << 20  # of a file whose rows are held

Rows = list[dict[str, Any]]


class TextTable:
    """The rows of one file, which is read again for each look at all of them, unless it is small.

    Attributes:
        notes: how it was read; of the last look that came to its end.
    """

    def __init__(self, file: Path, asked: ColumnNames = NO_COLUMNS) -> None:
        self._file, self._asked = file, asked
        self.notes: list[str] = []
        self._held: Rows | None = None

    @cached_property
    def _encoding(self) -> str:
        return table_encoding(self._file)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises DistillError naming file and line where it cannot be read."""
        return iter(self._held) if self._held is not None else self._read()

    def hold(self) -> "TextTable":
        """The same, its rows in memory from now on."""
        self._held = list(self)
        return self

    def first(self, most: int = FIRST_ROWS) -> Rows:
        """The first few rows."""
        return list(islice(self, most))

    def _read(self) -> Iterator[dict[str, Any]]:
        line, notes = [0], list[str]()
        try:
            yield from _parsed(self._file, self._encoding, line, self._asked, notes)
        except (OSError, ValueError, RecursionError, csv.Error) as error:  # ValueError: JSON and Unicode
            raise DistillError(
                f"The table {str(self._file)!r} cannot be read at or after line {line[0]} ({error}). Save it as UTF-8, with a "
                "header line (CSV, TSV), one JSON object a line (JSONL), or a list of objects (JSON)."
            ) from error
        self.notes = notes


def read_rows(file: Path, asked: ColumnNames = NO_COLUMNS) -> TextTable:
    """The rows of a text table. `asked`: columns that the user names, by which cells are told apart.

    Raises DistillError naming file and line where it cannot be read; of a large file when one comes to that line.
    """
    table = TextTable(file, asked)
    suffix = file.suffix.lower()
    try:
        large = file.stat().st_size > HELD_BYTES
    except OSError:
        large = False
    return table if large and suffix in (".csv", ".tsv", ".jsonl") else table.hold()


def _parsed(
    file: Path, encoding: str, line: list[int], asked: ColumnNames, notes: list[str]
) -> Iterator[dict[str, Any]]:
    suffix = file.suffix.lower()
    if encoding == "cp1252":
        if suffix in (".json", ".jsonl"):
            encoding = "utf-8"
        else:
            notes.append(f"{file.name} is not UTF-8 and read as cp1252, as a western Excel writes it")
    if suffix == ".jsonl":
        with open(file, encoding=encoding, newline="\n") as lines:
            yield from _json_lines(lines, line)
        return
    if suffix in (".json", ".txt", ".token"):
        text = file.read_bytes().decode(encoding)
        if suffix == ".json":
            yield from _json_rows(json.loads(text))
            return
        if _TOKEN_LINE.match(text):
            matches = (_TOKEN_LINE.match(row) for row in text.splitlines())
            yield from ({"file_name": found[1], "caption": found[2]} for found in matches if found)
            return
    with open(file, encoding=encoding, newline="\n") as lines:
        first = lines.readline().removesuffix("\n")
    with open(file, encoding=encoding, newline="") as lines:
        yield from _cells(lines, first, file, line, asked, notes)


def _json_lines(lines: Iterable[str], line: list[int]) -> Iterator[dict[str, Any]]:
    for part in lines:
        line[0] += 1
        row = json.loads(part) if part.strip() else {}
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
        if row:
            yield _flat(row)


def _cells(
    stream: Iterable[str], first: str, file: Path, line: list[int], asked: ColumnNames, notes: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows of separated cells. Surplus cells belong to the captions' column when there is one: a separator inside."""
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    separator = _separator(first, usual, asked)
    spaced = f"{separator} " in first
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARS))
    if separator == "|":  # Flickr30k's results.csv has lone quotation marks inside
        reader = csv.reader(stream, delimiter=separator, skipinitialspace=spaced, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, delimiter=separator, skipinitialspace=spaced)
    notes += [f"cells of {file.name} are separated by {_SEPARATORS[separator]}"] if separator != usual else []
    if _is_pair(first, separator):
        header = ["file_name", "caption"]
        notes.append(f"{file.name} has no header: file names, then captions")
    else:
        header = [name.strip() for name in next(reader, [])]
    named = {name.lower() for name in asked.captions}
    is_caption = named.__contains__ if named & {name.lower() for name in header} else is_caption_name
    places = [place for place, name in enumerate(header) if is_caption(name.lower())]
    joined = places[0] if len(places) == 1 else None
    surplus = short = 0
    for cells in reader:
        line[0] = reader.line_num
        if not cells:
            continue
        more = len(cells) - len(header)
        if more > 0 and header:
            surplus += 1
            if joined is not None:
                caption = (separator + " " * spaced).join(cells[joined : joined + more + 1])
                cells = [*cells[:joined], caption, *cells[joined + more + 1 :]]
        short += more < 0
        yield dict(zip(header, (cell.strip() if spaced else cell for cell in cells), strict=False))
    if surplus:
        done = "their surplus is dropped; quote cells that hold the separator"
        done = done if joined is None else "taken as part of the caption"
        notes.append(f"{counted(surplus, 'line has', 'lines have')} more cells than the header of {file.name}: {done}")
    if short:
        notes.append(f"{counted(short, 'line has', 'lines have')} fewer cells than the header of {file.name}")


def _is_pair(line: str, separator: str) -> bool:
    """Whether a first line is no header but the name of an image and its caption."""
    name, found, caption = line.partition(separator)
    return bool(found and caption.strip()) and ending(name.strip().strip('"')) in IMAGE_SUFFIXES


def _separator(header: str, usual: str, asked: ColumnNames) -> str:
    """The separator that makes known column names of a header line, the usual one where it does; else one that is there."""
    named = {name.lower() for name in (*filter(None, [asked.image]), *asked.sources())}

    def known(separator: str) -> int:
        if _is_pair(header, separator):
            return 2
        names = [name.strip().strip('"').lower() for name in header.split(separator)]
        return sum(name in (*named, *IMAGE_NAMES, *PATH_NAMES) or is_caption_name(name) for name in names)

    best = max((usual, *_SEPARATORS), key=known)
    return best if known(best) or usual in header else max((usual, *_SEPARATORS), key=header.count)


def first_rows(rows: Rows, most: int = FIRST_ROWS) -> dict[str, list[Any]]:
    """The first cells of every column."""
    names = dict.fromkeys(name for row in rows[:most] for name in row)
    return {name: [row.get(name) for row in rows[:most]] for name in names}


def image_column(names: Sequence[str], rows: Rows, asked: ColumnNames) -> str | None:
    """The column of a text table that says which image a row is of: the one that is asked for, else by its name, else by what it
    holds; an id where nothing better is there."""
    lower = {name.lower(): name for name in reversed(names)}
    if asked.image and (asked.image.lower() in lower or not asked.lenient):
        return lower.get(asked.image.lower())
    named = next((lower[name] for name in (*IMAGE_NAMES, *PATH_NAMES) if name in lower), None)
    return (
        named or column_of_images(first_rows(rows)) or next((lower[name] for name in KEY_NAMES if name in lower), None)
    )


def is_caption_name(name: str) -> bool:
    """Whether a column of this name holds captions."""
    return name.lower() in CAPTION_NAMES or CAPTION_COLUMN.fullmatch(name.lower()) is not None


def _json_rows(value: Any) -> Rows:
    if isinstance(value, dict) and isinstance(images := value.get("images"), list):
        facts = [image for image in images if isinstance(image, dict)]
        if isinstance(notes := value.get("annotations"), list):
            names = {image.get("id"): image.get("file_name") for image in facts}
            return [
                {"file_name": names.get(note.get("image_id")), "caption": note["caption"]}
                for note in notes
                if isinstance(note, dict) and "caption" in note and names.get(note.get("image_id"))
            ]
        return [_karpathy(image) for image in facts]
    if isinstance(value, dict):
        lists = [
            value[name] for name in ("data", "annotations", "samples", "items") if isinstance(value.get(name), list)
        ]
        if not lists and all(isinstance(item, str | list) for item in value.values()):
            return [{"file_name": name, "captions": item} for name, item in value.items()]
        if not lists and value and all(isinstance(item, dict) for item in value.values()):
            return [{"file_name": name, **item} for name, item in value.items()]
        value = lists[0] if lists else []
    if not isinstance(value, list):
        raise ValueError("no list of objects")
    return [_flat(row) for row in value if isinstance(row, dict)]


def _flat(row: dict[str, Any], depth: int = 3) -> dict[str, Any]:
    """A row whose objects are columns too: {"image": {"path": "a.jpg"}} is the image a.jpg, {"meta": {"alt": 1}} has "meta.alt"."""
    if depth == 0 or not any(isinstance(cell, dict) for cell in row.values()):
        return row
    flat: dict[str, Any] = {}
    for name, cell in row.items():
        flat[name] = cell
        if isinstance(cell, dict):
            path = next((cell[key] for key in PATH_NAMES if _is_file(cell.get(key))), None)
            flat[name] = cell if path is None else path
            inner = {key: value for key, value in cell.items() if path is None or value is not path}
            flat |= {f"{name}.{key}": value for key, value in _flat(inner, depth - 1).items()}
    return flat


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and ending(value.strip()) in IMAGE_SUFFIXES and not value.startswith(ADDRESSES)


def _karpathy(image: dict[str, Any]) -> dict[str, Any]:
    if "filename" in image and isinstance(image.get("filepath"), str):
        image = {**image, "filename": f"{image['filepath']}/{image['filename']}"}
    return {name: value for name, value in image.items() if name not in ("filepath", "imgid", "sentids", "cocoid")}

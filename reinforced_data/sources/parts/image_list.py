"""What the image files below a folder are: their captions' files, or their classes and parts by the folders that they lie in."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import UsageError
from reinforced_data.read_as import NO_CAPTIONS, ReadAs, listed
from reinforced_data.sources.parts.columns import MADE_FROM_CLASSES
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES, Found
from reinforced_data.sources.parts.kept.compact import Coded, Column, Picked
from reinforced_data.sources.parts.kept.digest import sha256_json_list
from reinforced_data.sources.parts.kept.shelf import Sheet, SheetWriter
from reinforced_data.sources.parts.splits import part_of
from reinforced_data.sources.parts.text import decoded_file
from reinforced_data.sources.parts.words import ASIDE, folder_words

TEXT_ENDINGS = (".txt", ".caption", ".text")
_TEXT_FOLDERS = ("captions", "caption", "texts", "text", "txt", "prompts")
READ_BY_NAME = "a table, a key of .json files, or files of another ending are read by name: --caption-column NAME"
_MOST_LOOKED_AT = 200
_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Asked:
    """What is asked of a folder of images.

    Attributes:
        location: for messages.
        endings: of caption files, besides the usual ones or, with `only`, instead of them.
        classes: True = every top sub-folder is a class, False = none is, None = those that are words.
    """

    location: str
    endings: tuple[str, ...]
    only: bool
    classes: bool | None


def list_images(found: Found, asked: Asked, folder: Path | None) -> Sheet:
    """The images of a folder: their files and captions' files as rows of `found` (-1 = none), labels and parts.

    Columns: image, text, json; label (i4) where they are classes; part where folders say parts. Facts: class_names,
    fingerprint, read_as.

    Raises UsageError when there are no image files, or when some sub-folders are words and others are not.
    """
    rows = found.image_rows if asked.classes is not None else _without_masks(found)
    if not len(rows):
        raise UsageError(_no_data(found))
    keys = Picked(found.names, rows)
    texts, jsons = _sidecars(found, keys, asked)
    notes = []
    looked_at = [found.names[int(row)] for row in islice(texts[texts >= 0], _MOST_LOOKED_AT)]
    looks = [decoded_file(found.folder / name) for name in looked_at]
    not_utf8 = sum(encoding == "cp1252" for _, encoding in looks)
    contents = [text for text, _ in looks if text.strip()]
    boxes = bool(contents) and all(map(_is_boxes, contents))
    if boxes:
        texts = np.full_like(texts, -1)
    sides = (texts[texts >= 0], jsons[jsons >= 0])
    writer = SheetWriter(folder)
    class_names: Sequence[str] = ()
    if not any(map(len, sides)) and asked.classes is not False:
        class_names, note = _read_classes(found, keys, asked, writer)
        notes += [note] if note else []
    with_text = int(np.count_nonzero((texts >= 0) | (jsons >= 0)))
    if with_text and with_text < len(keys):
        notes.append(f"{len(keys) - with_text} of {len(keys)} images have no such file")
    if not_utf8:
        notes.append(f"{not_utf8} of the first {len(looked_at)} caption files are not UTF-8 and read as cp1252")
    if boxes:
        notes.append(".txt files hold numbers (boxes?), no captions")
    unread = found.unread(used_rows=(rows, *sides))
    if not with_text and any("/" in name or "*" in name for name in unread):
        notes.append(READ_BY_NAME)
    read = ReadAs("images", NO_CAPTIONS, notes=tuple(notes), unread=unread)
    if with_text:
        endings = sorted({PurePosixPath(found.names[row]).suffix for side in sides for row in side.tolist()})
        read = read.but(captions=f"captions from {' and '.join(endings)} files of the images' names")
    if class_names:
        read = ReadAs("class folders", MADE_FROM_CLASSES, len(class_names), unread=unread)
    for name, column in {"image": rows, "text": texts, "json": jsons}.items():
        writer.array(name, column)
    return writer.done(
        {"class_names": class_names, "read_as": asdict(read), "fingerprint": _fingerprint(found, (rows, *sides))}
    )


def _fingerprint(found: Found, used: Iterable[Array]) -> str:
    rows = (row for some in used for row in some.tolist())
    return sha256_json_list(
        [found.names[row].encode("utf-8", "replace").decode(), int(found.sizes[row])] for row in rows
    )


def _without_masks(found: Found) -> Array:
    """The images outside of folders "masks", "labels", ... where others lie elsewhere."""
    kept = np.fromiter((not {part.lower() for part in name.split("/")[:-1]} & ASIDE for name in found.images), np.bool_)
    return found.image_rows[kept] if kept.any() else found.image_rows


class _ByName:
    """Files by their names in any case, of several the first; a file takes 16 bytes."""

    def __init__(self, found: Found, endings: tuple[str, ...]) -> None:
        self._names = found.names
        rows, marks = Column("i8"), Column("i8")
        for row, name in enumerate(found.names):
            if (lower := name.lower()).endswith(endings):
                rows.append(row)
                marks.append(hash(lower))
        by_mark = np.argsort(marks.done(), kind="stable")
        self._marks, self._rows = marks.done()[by_mark], rows.done()[by_mark]

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, wanted: Sequence[str]) -> list[int]:
        """Per name the row of its file, -1 where there is none."""
        lower = [name.lower() for name in wanted]
        marks = np.fromiter(map(hash, lower), np.int64, len(lower))
        starts, ends = (np.searchsorted(self._marks, marks, side).tolist() for side in ("left", "right"))
        rows = self._rows
        return [
            next((int(row) for row in rows[start:end] if self._names[int(row)].lower() == name), -1)
            if end > start
            else -1
            for name, start, end in zip(lower, starts, ends, strict=True)
        ]


def _sidecars(found: Found, keys: Sequence[str], asked: Asked) -> tuple[Array, Array]:
    """Per image the text file and the JSON file that belong to it, as rows of `found`, -1 where there is none."""
    endings = asked.endings if asked.only else (*asked.endings, *TEXT_ENDINGS)
    texts, jsons = _ByName(found, endings), _ByName(found, (".json",))
    columns = Column("i8"), Column("i8")
    waiting = iter(keys)
    while some := [_beside(key) for key in islice(waiting, _AT_ONCE)]:
        for column, files, ends in ((columns[0], texts, endings), (columns[1], jsons, (".json",))):
            if not len(files):
                column.extend(np.full(len(some), -1, np.int64).tobytes())
                continue
            found_rows = iter(files.find([place + end for places in some for place in places for end in ends]))
            for places in some:
                rows = list(islice(found_rows, len(places) * len(ends)))
                column.append(next((row for row in rows if row >= 0), -1))
    return columns[0].done(), columns[1].done()


def _beside(key: str) -> list[str]:
    """Where the captions of an image may lie, without their ending: x, x.jpg, and captions/x for images/x."""
    path = PurePosixPath(key)
    ways = [str(path.with_suffix("")), key]
    for place, part in enumerate(path.parts[:-1]):
        if part.lower() in ("images", "image", "imgs", "img", "photos", "pictures"):
            for folder in _TEXT_FOLDERS:
                ways.append(str(PurePosixPath(*path.parts[:place], folder, *path.parts[place + 1 :]).with_suffix("")))
    return ways


def _read_classes(found: Found, keys: Iterable[str], asked: Asked, writer: SheetWriter) -> tuple[list[str], str]:
    """The classes: sub-folders below what all keys share; labels and parts go to the writer. Else a note that says why not."""
    read = read_folders(keys, anyhow=bool(asked.classes))
    if read.parts is not None:
        writer.coded("part", read.parts)
    if read.unsure:
        could, nameless = read.unsure
        raise UsageError(
            f"Are the sub-folders of {str(found.folder)!r} classes? {listed(could)} could be, and "
            f"{listed(nameless)} {'is' if len(nameless) == 1 else 'are'} no word. If they are, rename those or write "
            f"classes:{asked.location}; if not, write images:{asked.location} (captions then come from a captioner)."
        )
    if read.labels is not None:
        writer.numbers("label", "i4").extend(read.labels.tobytes())
    return [*read.class_names], read.note


class Folders(NamedTuple):
    """What the folders of images say.

    Attributes:
        labels: [n] int32 into class_names; None where the folders are no classes.
        parts: the part of each image; None where folders say none.
        unsure: the names that are words and those that are not, where there are both.
        note: why the folders are no classes, where that is not plain.
    """

    labels: Array | None = None
    class_names: Sequence[str] = ()
    parts: Coded | None = None
    unsure: tuple[list[str], list[str]] | None = None
    note: str = ""


def read_folders(keys: Iterable[str], *, anyhow: bool = False) -> Folders:
    """The classes and parts of images by their paths: classes are the sub-folders below what all paths share.

    `anyhow`: also where their names are no words.
    """
    homes = Coded.of(key.rpartition("/")[0] for key in keys)
    ways = [home.split("/") if home else [] for home in homes.values]
    parts: list[str | None] = []

    def parts_at(level: int) -> bool:
        """Whether the names of a level are those of parts, which then divide the images ("images/train", ...)."""
        named = [part_of(way[level]) for way in ways]
        if divides := all(named) and len({*named}) > 1:
            parts[:] = named
        return divides

    depth = 0
    while all(len(way) > depth for way in ways) and (len({way[depth] for way in ways}) == 1 or parts_at(depth)):
        depth += 1
    coded = _grouped(parts, homes.codes) if parts else None
    if not all(len(way) > depth for way in ways):
        return Folders(parts=coded)
    names = sorted({way[depth] for way in ways})
    nameless = [name for name in names if folder_words(name) is None]
    if nameless and not anyhow:
        if len(nameless) == len(names):
            note = f"its sub-folders are no classes, since their names are no words: {listed(names)}"
            return Folders(parts=coded, note=note)
        return Folders(parts=coded, unsure=(sorted({*names} - {*nameless}), nameless))
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[way[depth]] for way in ways], np.int32)[homes.codes]
    return Folders(labels, [folder_words(name) or name for name in names], coded)


def _grouped(values: Sequence[str | None], codes: Array) -> Coded:
    """Of several codes of one value one."""
    different = Coded.of(values)
    return Coded(different.values, different.codes[codes])


def _is_boxes(text: str) -> bool:
    """Whether a text holds nothing but lines of at least four numbers, as detectors' labels do (YOLO)."""
    return all(
        len(line.split()) >= 4 and all(_is_number(word) for word in line.split()) for line in text.strip().splitlines()
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _no_data(found: Found) -> str:
    packed = next((name for name in found.names if name.lower().endswith((".tar.gz", ".tgz", ".zip"))), None)
    advice = f"Unpack {packed!r} first." if packed else "Give the folder of the images."
    unread = ReadAs("nothing", unread=found.unread()).line().partition("not read: ")[2]
    there = f" Everything in it was left aside: {unread}." if unread else ""
    return (
        f"The folder {str(found.folder)!r} holds no data: looked for Parquet files, tars, tables (captions.csv, "
        f"metadata.jsonl, ...) and images ({', '.join(IMAGE_SUFFIXES)}) in it and its sub-folders.{there} {advice}"
    )

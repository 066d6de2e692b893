"""A folder as data, in the layouts people have: Parquet files, tars, images with captions, one sub-folder per class.

Looked for in this order: a set that `datasets` saved; Parquet files with an image column, wherever they lie; WebDataset tars;
tables that name image files (captions.csv, metadata.jsonl, COCO's annotations/captions_*.json, ...); sub-folders named like
splits; images with sidecars of the same name (.txt, one caption a line; .json); class-named sub-folders; images alone, whose
captions are then missing. Links to folders are not followed. "images:FOLDER" and "classes:FOLDER" say what the folder is.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from distill.core.arrays import Array
from distill.core.atomic import sha256_json
from distill.core.errors import DistillError, UsageError
from reinforced_data.read_as import NO_CAPTIONS, listed
from reinforced_data.source import NO_COLUMNS, SOURCES, ColumnNames, Source, Split
from reinforced_data.sources.hub import is_saved, open_saved
from reinforced_data.sources.parts.columns import IMAGE_NAMES, LABEL_NAMES, PATH_NAMES, column_of_images
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES, Found, ending, walk
from reinforced_data.sources.parts.image_list import READ_BY_NAME
from reinforced_data.sources.parts.images import ImageListing
from reinforced_data.sources.parts.kept.compact import Column, Marks
from reinforced_data.sources.parts.listing import serve
from reinforced_data.sources.parts.parquet import first_cells, open_parquet
from reinforced_data.sources.parts.splits import TRAIN_NAMES, Choice, choose, part_of, part_of_file
from reinforced_data.sources.parts.tables.paths import Paths
from reinforced_data.sources.parts.tables.rows import Read
from reinforced_data.sources.parts.tables.text import TEXT_SUFFIXES, TextTable, image_column, is_caption_name, read_rows
from reinforced_data.sources.parts.tars.places import TAR
from reinforced_data.sources.table import TableListing
from reinforced_data.sources.webdataset import BESIDE_TARS, TarListing

_TABLE_WORDS = {
    "metadata", "captions", "caption", "annotations", "results", "dataset", "labels", "index", "token", "data"
}  # fmt: skip
_NO_CAPTIONS = ("instances_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")  # COCO's other, large tables
_MOST_TABLES = 64


@SOURCES.register("folder")
def open_folder(location: str, split: Split, limit: int | None = None, columns: ColumnNames = NO_COLUMNS) -> Source:
    """A folder: images with captions beside them, class-named sub-folders, tars, Parquet or a table.

    Raises UsageError when nothing in it is data.
    """
    root = _root(location, "folder:")
    where = f"The folder {str(root)!r}"
    if is_saved(root):
        return open_saved(root, split, limit, columns)
    found, licence = walk(root), _licence(root)
    read: list[Read] = []
    asked = sha256_json([columns.to_json(), columns.lenient, IMAGE_SUFFIXES])[:16]
    names = found.remember(f"data2-{asked}", lambda: _data_files(found, columns, where, read))
    files = [root / name for name in names["packed"]]
    if files:
        used = {*names["packed"]}
        choice = choose([part for file in files if (part := _part_of(file, root))], split, where)
        files = [file for file in files if not choice.parts or _part_of(file, root) in choice.parts]
        kind = TarListing if ending(files[0].name) == TAR else TableListing
        packed = kind(files, root.name, str(root), licence, columns)
        used |= {name for name in found.names if PurePosixPath(name).name in BESIDE_TARS}
        packed.read_as = packed.read_as.but(unread={**packed.read_as.unread, **found.unread(used)})
        return serve(packed, choice, split, limit, where)
    if names["tables"]:
        tables = [root / name for name in names["tables"]]
        listing = TableListing(tables, root.name, str(root), licence, columns, found, read[0] if read else None)
        return serve(listing, Choice((), hold_out=split in ("train", "eval")), split, limit, where)
    return _open_images(found, split, limit, columns, licence, where, None, names["hints"])


def _data_files(found: Found, columns: ColumnNames, where: str, read: list[Read]) -> dict[str, list[str]]:
    """The names of the files that are the data of a place, `packed` ones or `tables`; none where it is its images.

    What tables were found to hold is added to `read`, so that they are read once; `hints` say what tables of the images hold
    that no caption was found in.
    """
    packed = [file.relative_to(found.folder).as_posix() for file in _packed(found, columns)]
    hints: list[str] = []
    tables = None if packed else _tables(found, columns, where, hints)
    if tables is None:
        return {"packed": packed, "tables": [], "hints": hints}
    read.append(tables)
    names = [file.relative_to(found.folder).as_posix() for file in tables.tables]
    return {"packed": [], "tables": names, "hints": []}


@SOURCES.register("images")
def open_images(location: str, split: Split, limit: int | None = None, columns: ColumnNames = NO_COLUMNS) -> Source:
    """A folder of images whose sub-folders are no classes: "images:FOLDER"."""
    root = _root(location, "images:")
    return _open_images(walk(root), split, limit, columns, _licence(root), f"The folder {str(root)!r}", False)


@SOURCES.register("classes")
def open_classes(location: str, split: Split, limit: int | None = None, columns: ColumnNames = NO_COLUMNS) -> Source:
    """A folder of images whose sub-folders are classes, whatever they are called: "classes:FOLDER"."""
    root = _root(location, "classes:")
    return _open_images(walk(root), split, limit, columns, _licence(root), f"The folder {str(root)!r}", True)


def _root(location: str, scheme: str) -> Path:
    root = Path(location.removeprefix(scheme)).expanduser()
    if not root.is_dir():
        raise UsageError(f"The folder {str(root)!r} is not there. Give an existing folder.")
    return root


def _open_images(
    found: Found,
    split: Split,
    limit: int | None,
    columns: ColumnNames,
    licence: str,
    where: str,
    classes: bool | None,
    hints: Sequence[str] = (),
) -> Source:
    """Image files, in sub-folders named like splits or in one place. `hints`: said where they have no captions."""
    root, choice = found.folder, Choice((), hold_out=split in ("train", "eval"))
    folders = found.remember(f"tops-{len(IMAGE_SUFFIXES)}", lambda: _tops(found))
    tops = {part: name for name in reversed(folders) if (part := part_of(name))}
    # A folder "train" beside "car" and "bus" is a class, and so may a lone "test" be.
    if {*TRAIN_NAMES} & {*tops} and (len(tops) > 1 or len(folders) == 1):
        choice = choose(list(tops), split, where)
        found = walk(root / tops[choice.parts[0]])
    listing = ImageListing(found, root, licence, columns, classes)
    if hints and listing.read_as.captions == NO_CAPTIONS:
        notes = [note for note in listing.read_as.notes if note != READ_BY_NAME]
        listing.read_as = replace(listing.read_as, notes=(*notes, *hints))
    return serve(listing, choice, split, limit, where)


def _tops(found: Found) -> list[str]:
    """The sub-folders of a place that hold images."""
    return sorted({name.split("/")[0] for name in found.images if "/" in name})


def _packed(found: Found, columns: ColumnNames) -> list[Path]:
    """The Parquet files with images, or else the tars, that are the data of a place."""
    tars = [name for name in found.names if ending(name) == TAR]
    stems = {PurePosixPath(name).with_suffix("") for name in tars}
    parquet = [
        found.folder / name
        for name in found.names
        if ending(name) == ".parquet" and PurePosixPath(name).with_suffix("") not in stems
    ]
    kept = [file for file in parquet if _has_images(file, columns, paths=bool(found.images))]
    if kept or (parquet and not tars and not found.images):
        return kept or parquet
    return [] if found.images else [found.folder / name for name in tars]


def _has_images(file: Path, columns: ColumnNames, *, paths: bool) -> bool:
    """Whether the file has a column of images by its name, or by what it holds: their bytes or, where images lie there, `paths`."""
    with open_parquet(file) as parquet:
        names = {name.lower() for name in parquet.schema_arrow.names}
    known = {*IMAGE_NAMES, *PATH_NAMES, *([columns.image.lower()] if columns.image else [])}
    if names & known:
        return True
    cells = first_cells(file)
    found = column_of_images(cells)
    return found is not None and (paths or not any(isinstance(cell, str) for cell in cells[found]))


def _part_of(file: Path, root: Path) -> str | None:
    """The part that a file's name says, or a folder on the way to it."""
    folders = reversed(file.relative_to(root).parts[:-1])
    return part_of_file(file.stem) or next((part for name in folders if (part := part_of(name))), None)


def _tables(found: Found, columns: ColumnNames, where: str, hints: list[str]) -> Read | None:
    """The tables that hold captions, else labels, of the images in a place; of those of the same images the first.

    Where there are none, `hints` gets a line for each table of these images whose columns have other names.

    Raises UsageError where several might be meant and none is named like a table of captions, or none has a column asked for.
    """
    stems = Marks(str(PurePosixPath(name).with_suffix("")).lower() for name in found.images)
    images = Marks(name.lower() for name in found.images)
    candidates = [
        name
        for name in found.names
        if ending(name) in TEXT_SUFFIXES
        and not any(of in stems or of in images for of in _images_beside(name))
        and not PurePosixPath(name).name.startswith(_NO_CAPTIONS)
    ]
    if not found.images or len(candidates) > _MOST_TABLES:
        candidates = [name for name in candidates if _named_as_table(name)][:_MOST_TABLES]
    paths = Paths(found.folder, found.images if candidates else ())
    fitting = {
        name: fit for name in candidates if (fit := _fit(found.folder / name, paths, bool(found.images), columns))
    }
    if not fitting and columns.image and not columns.lenient:
        raise UsageError(_no_such_table(columns, [found.folder / name for name in candidates], where))
    if not fitting:
        hints += filter(None, (_other_columns(found.folder / name, paths, columns) for name in candidates[:3]))
    captioned = {name: fit.images for name, fit in fitting.items() if fit.captions}
    chosen = captioned or {name: fit.images for name, fit in fitting.items()}
    named = [name for name in chosen if _named_as_table(name)]
    if not named and not captioned and len(chosen) > 1:
        return None  # of labels alone; which of them? they are named as unread
    if not named and _overlap(chosen):
        raise UsageError(
            f"{where} has several tables of its images: {listed(sorted(chosen))}. Say which: --data {found.folder / min(chosen)} "
            "(or rename it captions)."
        )
    kept: list[str] = []
    # Of Flickr8k.token.txt and Flickr8k.lemma.token.txt the first is meant: the plainer name.
    for name in sorted(named or chosen, key=lambda name: (name.count("/"), PurePosixPath(name).name.count("."), name)):
        if not any(np.intersect1d(chosen[name], chosen[other]).size for other in kept):
            kept.append(name)
    return Read(paths, {found.folder / name: fitting[name].read for name in sorted(kept)}) if kept else None


def _images_beside(name: str) -> tuple[str, str]:
    """What the image would be called whose caption's file this could be, without its ending or with it."""
    return str(PurePosixPath(name).with_suffix("")).lower(), name.rpartition(".")[0].lower()


class _Fit(NamedTuple):
    """A table of images: the numbers of those that it names, ascending, whether it has captions, and its rows."""

    images: Array
    captions: bool
    read: TextTable


def _overlap(chosen: Mapping[str, Array]) -> bool:
    """Whether two tables are of the same image."""
    images = np.concatenate([*chosen.values(), np.zeros(0, np.int64)])
    return len(images) > len(np.unique(images))


def _no_such_table(columns: ColumnNames, tables: list[Path], where: str) -> str:
    """What to say where no table has the image column that is asked for, or none whose cells lead to images."""
    there = []
    for file in tables[:3]:
        with contextlib.suppress(DistillError):
            names = dict.fromkeys(name for row in read_rows(file, columns).first() for name in row)
            there.append(f"{file.name} has {', '.join(names) or 'no columns'}")
    wanted = " and ".join(filter(None, [columns.image, ", ".join(columns.captions)]))
    return (
        f"{where} has no table of its images with the columns {wanted}. {'; '.join(there) or 'It has no table at all'}."
    )


def _fit(file: Path, paths: Paths, there: bool, columns: ColumnNames) -> _Fit | None:
    """What the table is to the images; None when it is no table of images."""
    try:
        return _fitting(read_rows(file, columns), file.parent, paths, there, columns)
    except DistillError:
        if _named_as_table(file.name) and ending(file.name) in (".csv", ".tsv", ".jsonl"):
            raise  # it says what it is
        return None


def _fitting(read: TextTable, base: Path, paths: Paths, there: bool, columns: ColumnNames) -> _Fit | None:
    rows = read.first()
    names = {str(name).lower(): name for row in rows for name in row}
    image = image_column(list(names.values()), rows, columns)
    asked = {name.lower() for name in columns.sources()}
    captions = bool(asked & {*names}) or any(is_caption_name(name) for name in names)
    if columns.captions and not columns.lenient:
        captions = {name.lower() for name in columns.captions} <= {*names}
    if image is None or not (captions or {*LABEL_NAMES} & {*names}):
        return None
    known = Column("i8")
    for row in read:
        if (number := paths.find_row(row.get(image), base)) is not None:
            known.append(number)
    return _Fit(np.unique(known.done()), captions, read) if len(known) or (rows and not there) else None


def _other_columns(file: Path, paths: Paths, columns: ColumnNames) -> str:
    """What to say of a table of the images none of whose columns has a name of captions; "" of any other file."""
    with contextlib.suppress(DistillError):
        rows = read_rows(file, columns).first()
        names = [*dict.fromkeys(str(name) for row in rows for name in row)]
        image = image_column(names, rows, columns)
        if image and any(paths.find_row(row.get(image), file.parent) is not None for row in rows):
            others = ", ".join(name for name in names if name != image)
            return f"{file.name} is of these images; which of its columns ({others}) has captions is said by --caption-column NAME"
    return ""


def _named_as_table(name: str) -> bool:
    """Whether the file's name says that it is the table of the folder's images (captions.csv, metadata1000.jsonl, ...)."""
    words = re.split(r"[-._ ]|(?<=\D)(?=\d)", PurePosixPath(name).stem.lower())
    return bool({*words} & _TABLE_WORDS) or any(part_of(word) for word in words)


def _licence(root: Path) -> str:
    """The first line of a licence file in the folder, "unknown" without one."""
    for name in ("LICENSE", "LICENCE", "LICENSE.txt", "LICENCE.txt", "LICENSE.md", "LICENCE.md"):
        file = root / name
        if file.is_file():
            with open(file, encoding="utf-8", errors="replace") as stream:
                first = next((line.strip("# \n") for line in stream if line.strip("# \n")), "")
            return first[:100] or "unknown"
    return "unknown"

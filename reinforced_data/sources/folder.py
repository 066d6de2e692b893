"""A folder as data, in the layouts people have: Parquet files, images with captions, one sub-folder per class.

Looked for in this order: sub-folders named like splits; Parquet files; a table (metadata.csv, captions.jsonl,
train.tsv, ...) that names image files; images with sidecars of the same name (.txt, one caption a line; .json);
class-named sub-folders; images alone, whose captions are then missing. Links to folders are not followed.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from distill.core.atomic import sha256_json
from distill.core.errors import UsageError
from reinforced_data.columns import caption_texts
from reinforced_data.decode import BadImageError
from reinforced_data.listing import EVAL_NAMES, TRAIN_NAMES, ListedSource, Listing, held_out_rows, pick_split
from reinforced_data.source import SOURCES, Source, Split
from reinforced_data.sources.table import TEXT_SUFFIXES, TableListing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".jfif")
_SPLIT_NAMES = (*TRAIN_NAMES, *EVAL_NAMES)
_TABLE_STEMS = ("metadata", "captions", "annotations", *_SPLIT_NAMES)
_MAX_SIDECAR_BYTES = 1 << 20


@SOURCES.register("folder")
def open_folder(location: str, split: Split, limit: int | None = None) -> Source:
    """A folder: images with captions beside them, class-named sub-folders, Parquet or a table.

    Raises UsageError when nothing in it is data.
    """
    root = Path(location.removeprefix("folder:")).expanduser()
    where = f"The folder {str(root)!r}"
    if not root.is_dir():
        raise UsageError(f"{where} is not there. Give an existing folder.")
    licence = _licence(root)
    folders = {entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()}
    named = [name for name in _SPLIT_NAMES if name in folders]
    # A folder "train" beside "car" and "bus" is a class, and so may a lone "test" be.
    if any(name in TRAIN_NAMES for name in named) and (len(named) > 1 or len(folders) == 1):
        chosen = pick_split(named, split, where)
        only = next(name for name in named if name in TRAIN_NAMES)
        listing: Listing = _listing(folders[chosen or only], root, licence)
        rows = range(len(listing.keys)) if chosen else held_out_rows(listing.keys, split, where)
        return ListedSource(listing, rows, split, limit)
    tables = _tables(root)
    if tables:
        named = [name for name in _SPLIT_NAMES if any(_split_of(file) == name for file in tables)]
        chosen = pick_split(named, split, where)
        if chosen is None and named:
            chosen_files = [file for file in tables if _split_of(file) in TRAIN_NAMES]
        else:
            chosen_files = [file for file in tables if chosen is None or _split_of(file) == chosen]
        listing = TableListing(chosen_files, root.name, str(root), licence)
        rows = range(len(listing.keys)) if chosen else held_out_rows(listing.keys, split, where)
        return ListedSource(listing, rows, split, limit)
    listing = ImageListing(root, root, licence)
    return ListedSource(listing, held_out_rows(listing.keys, split, where), split, limit)


def _listing(folder: Path, root: Path, licence: str) -> Listing:
    """All of one split's folder as one listing."""
    tables = _tables(folder)
    return TableListing(tables, root.name, str(root), licence) if tables else ImageListing(folder, root, licence)


def _tables(folder: Path) -> list[Path]:
    """Parquet files in `folder` (or in its "data", as hub sets have it), else its text tables with a telling name."""
    for place in (folder, folder / "data"):
        if place.is_dir():
            files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
            parquet = [file for file in files if file.suffix.lower() == ".parquet"]
            if parquet:
                return parquet
            text = [file for file in files if file.suffix.lower() in TEXT_SUFFIXES and _telling(file)]
            if text and not any(_split_of(file) for file in text):
                return text[:1]
            if text:
                return [file for file in text if _split_of(file)]
    return []


def _telling(file: Path) -> bool:
    return re.split(r"[-._]", file.stem.lower())[0] in _TABLE_STEMS


def _split_of(file: Path) -> str | None:
    first = re.split(r"[-._]", file.stem.lower())[0]
    return first if first in _SPLIT_NAMES else None


def _licence(root: Path) -> str:
    """The first line of a licence file in the folder, "unknown" without one."""
    for name in ("LICENSE", "LICENCE", "LICENSE.txt", "LICENCE.txt", "LICENSE.md", "LICENCE.md"):
        file = root / name
        if file.is_file():
            with open(file, encoding="utf-8", errors="replace") as stream:
                first = next((line.strip("# \n") for line in stream if line.strip("# \n")), "")
            return first[:100] or "unknown"
    return "unknown"


class ImageListing:
    """Image files below `folder`, captions from sidecars, or labels from class-named sub-folders.

    Raises UsageError when there are no image files.
    """

    def __init__(self, folder: Path, root: Path, licence: str) -> None:
        self.name, self.location, self.licence = root.name, str(root), licence
        self._folder = folder
        sizes = _walk(folder)
        self.keys: Sequence[str] = [name for name in sizes if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        if not self.keys:
            raise UsageError(
                f"The folder {str(folder)!r} holds no data: looked for Parquet files, metadata.csv or .jsonl, and "
                f"images ({', '.join(IMAGE_SUFFIXES)}) in it and its sub-folders. Give the folder of the images."
            )
        self._sidecars = [
            next((side for suffix in (".txt", ".json") if (side := str(Path(name).with_suffix(suffix))) in sizes), None)
            for name in self.keys
        ]
        self._labels: list[int] | None = None
        self.class_names: tuple[str, ...] = ()
        tops = {name.split("/")[0] for name in self.keys if "/" in name}
        if not any(self._sidecars) and len(tops) > 1 and all("/" in name for name in self.keys):
            self.class_names = tuple(sorted(tops))
            numbers = {name: number for number, name in enumerate(self.class_names)}
            self._labels = [numbers[name.split("/")[0]] for name in self.keys]
        used = [*self.keys, *(side for side in self._sidecars if side)]
        self.fingerprint = sha256_json([[name.encode("utf-8", "replace").decode(), sizes[name]] for name in used])

    def image(self, row: int) -> bytes:
        """See `Listing`."""
        try:
            return (self._folder / self.keys[row]).read_bytes()
        except OSError as error:
            raise BadImageError(self.keys[row], f"the file cannot be read ({error.strerror})") from error

    def captions(self, row: int) -> list[str]:
        """See `Listing`. A sidecar that cannot be read counts as having no captions."""
        side = self._sidecars[row]
        if side is None:
            return []
        try:
            with open(self._folder / side, "rb") as stream:
                text = stream.read(_MAX_SIDECAR_BYTES).decode("utf-8-sig", "replace")
            return text.splitlines() if side.endswith(".txt") else caption_texts(json.loads(text))
        except (OSError, ValueError, RecursionError):
            return []

    def label(self, row: int) -> int | None:
        """See `Listing`."""
        return self._labels[row] if self._labels else None


def _walk(folder: Path) -> dict[str, int]:
    """Relative path (with "/") -> size in bytes of every regular file, sorted; no hidden ones, no linked folders."""
    found: dict[str, int] = {}
    for directory, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            path = Path(directory, name)
            if not name.startswith(".") and path.is_file():
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return dict(sorted(found.items()))

"""A folder as data, in the layouts people have: Parquet files, tars, images with captions, one sub-folder per class.

Looked for in this order: a set that `datasets` saved; sub-folders named like splits; Parquet files (but not those that
img2dataset writes beside its tars); WebDataset tars; a table (metadata.csv, captions.jsonl, train.tsv, ...) that names
image files; images with sidecars of the same name (.txt, one caption a line; .json); class-named sub-folders; images
alone, whose captions are then missing; tars in sub-folders. Links to folders are not followed.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.core.atomic import sha256_json
from distill.core.errors import UsageError
from reinforced_data.sample import Caption
from reinforced_data.source import SOURCES, Source, Split
from reinforced_data.sources.hub import is_saved, open_saved
from reinforced_data.sources.parts.columns import caption_sources, json_captions, read_image_file
from reinforced_data.sources.parts.listing import (
    EVAL_NAMES,
    IMAGE_SUFFIXES,
    TRAIN_NAMES,
    ListedSource,
    Listing,
    check_tags_occur,
    held_out_rows,
    pick_split,
)
from reinforced_data.sources.table import TEXT_SUFFIXES, TableListing
from reinforced_data.sources.webdataset import TAR, TarListing

_SPLIT_NAMES = (*TRAIN_NAMES, *EVAL_NAMES)
_TABLE_STEMS = ("metadata", "captions", "annotations", *_SPLIT_NAMES)
_MAX_SIDECAR_BYTES = 1 << 20


@SOURCES.register("folder")
def open_folder(
    location: str, split: Split, limit: int | None = None, caption_columns: Mapping[str, str] | None = None
) -> Source:
    """A folder: images with captions beside them, class-named sub-folders, tars, Parquet or a table.

    Raises UsageError when nothing in it is data.
    """
    root = Path(location.removeprefix("folder:")).expanduser()
    where = f"The folder {str(root)!r}"
    if not root.is_dir():
        raise UsageError(f"{where} is not there. Give an existing folder.")
    if is_saved(root):
        return open_saved(root, split, limit, caption_columns)
    licence = _licence(root)
    folders = {entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()}
    named = [name for name in _SPLIT_NAMES if name in folders]
    # A folder "train" beside "car" and "bus" is a class, and so may a lone "test" be.
    if any(name in TRAIN_NAMES for name in named) and (len(named) > 1 or len(folders) == 1):
        chosen = pick_split(named, split, where)
        only = next(name for name in named if name in TRAIN_NAMES)
        part = folders[chosen or only]
        listing = _listing(_files(part), part, root, licence, caption_columns)
    else:
        files = _files(root)
        named = [name for name in _SPLIT_NAMES if any(_split_of(file) == name for file in files)]
        chosen = pick_split(named, split, where)
        if chosen is None and named:
            files = [file for file in files if _split_of(file) in TRAIN_NAMES]
        else:
            files = [file for file in files if chosen is None or _split_of(file) == chosen]
        listing = _listing(files, root, root, licence, caption_columns)
    rows = range(len(listing.keys)) if chosen else held_out_rows(listing.keys, split, where)
    return ListedSource(listing, rows, split, limit)


def _listing(
    files: list[Path], folder: Path, root: Path, licence: str, caption_columns: Mapping[str, str] | None
) -> Listing:
    """The table or tar `files` of one split as one listing; without any, the images in `folder`."""
    if not files:
        return ImageListing(folder, root, licence, caption_columns)
    kind = TarListing if files[0].suffix.lower() == TAR else TableListing
    return kind(files, root.name, str(root), licence, caption_columns)


def _files(folder: Path) -> list[Path]:
    """The Parquet files, tars or tables that are the data in `folder` (or in its "data", as hub sets have it)."""
    for place in (folder, folder / "data"):
        if place.is_dir():
            files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
            tars = [file for file in files if file.suffix.lower() == TAR]
            stems = {file.stem for file in tars}
            parquet = [file for file in files if file.suffix.lower() == ".parquet" and file.stem not in stems]
            if parquet:
                return parquet
            if tars and not any(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
                return tars
            text = [file for file in files if file.suffix.lower() in TEXT_SUFFIXES and _named_as_table(file)]
            if text and not any(_split_of(file) for file in text):
                return text[:1]
            if text:
                return [file for file in text if _split_of(file)]
    found = _walk(folder)
    if any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in found):
        return []
    return [folder / name for name in found if name.lower().endswith(TAR)]


def _named_as_table(file: Path) -> bool:
    """Whether the file's name says that it is the table of the folder's images (captions.csv, train-0.tsv, ...)."""
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

    Args:
        folder: of the images. root, licence: for reports.
        caption_columns: keys of the .json sidecars, see `open.open_source`.

    Raises UsageError when there are no image files.
    """

    def __init__(
        self, folder: Path, root: Path, licence: str, caption_columns: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.location, self.licence = root.name, str(root), licence
        self._folder = folder
        self._tagged = caption_sources(caption_columns)
        sizes = _walk(folder)
        self.keys: Sequence[str] = [name for name in sizes if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        if not self.keys:
            packed = next((name for name in sizes if name.lower().endswith((".tar.gz", ".tgz", ".zip"))), None)
            advice = f"Unpack {packed!r} first." if packed else "Give the folder of the images."
            raise UsageError(
                f"The folder {str(folder)!r} holds no data: looked for Parquet files, tars, metadata.csv or .jsonl, "
                f"and images ({', '.join(IMAGE_SUFFIXES)}) in it and its sub-folders. {advice}"
            )
        beside = [Path(name).with_suffix("") for name in self.keys]
        self._texts = [side if (side := f"{stem}.txt") in sizes else None for stem in beside]
        self._jsons = [side if (side := f"{stem}.json") in sizes else None for stem in beside]
        used = [*self.keys, *(side for side in (*self._texts, *self._jsons) if side)]
        self._labels: list[int] | None = None
        self.class_names: tuple[str, ...] = ()
        tops = {name.split("/")[0] for name in self.keys if "/" in name}
        if len(used) == len(self.keys) and len(tops) > 1 and all("/" in name for name in self.keys):
            self.class_names = tuple(sorted(tops))
            numbers = {name: number for number, name in enumerate(self.class_names)}
            self._labels = [numbers[name.split("/")[0]] for name in self.keys]
        self.fingerprint = sha256_json([[name.encode("utf-8", "replace").decode(), sizes[name]] for name in used])
        check_tags_occur(self, self._tagged)

    def image(self, row: int) -> bytes:
        """The row's image, encoded as found; BadImageError when it cannot be read."""
        return read_image_file(self._folder / self.keys[row], self.keys[row], self.keys[row])

    def captions(self, row: int) -> list[Caption]:
        """The row's captions. A .txt holds real captions and goes before a .json; a damaged sidecar counts as having none."""
        lines = [Caption(line) for line in self._sidecar(self._texts[row]).splitlines() if line.strip()]
        try:
            told, tagged = json_captions(self._sidecar(self._jsons[row]), self._tagged)
        except (ValueError, RecursionError):
            told, tagged = [], []
        return [*(lines or told), *tagged]

    def _sidecar(self, name: str | None) -> str:
        if name is None:
            return ""
        try:
            with open(self._folder / name, "rb") as stream:
                return stream.read(_MAX_SIDECAR_BYTES).decode("utf-8-sig", "replace")
        except OSError:
            return ""

    def label(self, row: int) -> int | None:
        """The row's index into `class_names`, None when it has none."""
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

"""WebDataset tars as data: one .tar, a folder of them, or a pattern like "shards/{00000..00009}.tar".

A sample is all members of a tar whose names agree up to the first dot: an image (.jpg, .png, .webp, ...), its captions
(.txt, one caption, or one a line where dataset_type.txt says "retrieval"; .0.txt, .1.txt ..., one caption each; .json with a
caption key) and perhaps a class (.cls: a number or a name; `classnames.txt` beside the tars names the numbers; or, where there are
neither captions nor .cls, the folder inside the tar). Samples of one image are one. Members are read in place
by offset, in any order; nothing is extracted (see `tars`). Left out: compressed tars, which have no random access, and tars
that are not files.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.atomic import sha256_json
from distill.core.errors import UsageError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.read_as import TARS, ReadAs, listed
from reinforced_data.sample import Caption
from reinforced_data.source import NO_COLUMNS, SOURCES, ColumnNames, Source, Split
from reinforced_data.sources.parts.columns import (
    MADE_FROM_CLASSES,
    MAX_IMAGE_BYTES,
    Labels,
    json_captions,
)
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES
from reinforced_data.sources.parts.image_list import read_folders
from reinforced_data.sources.parts.kept.compact import Coded, Picked, repeated
from reinforced_data.sources.parts.listing import (
    check_tags_occur,
    serve,
)
from reinforced_data.sources.parts.same import Groups, digest_of
from reinforced_data.sources.parts.same import told as merged
from reinforced_data.sources.parts.splits import choose, part_of, part_of_file
from reinforced_data.sources.parts.tars.index import read_index
from reinforced_data.sources.parts.tars.places import tar_files
from reinforced_data.sources.parts.text import READ_AT_MOST, decoded

# What CLIP_benchmark lays beside its tars.
BESIDE_TARS = ("classnames.txt", "dataset_type.txt", "zeroshot_classification_templates.txt", "nshards.txt")
TEXT_KINDS, LABEL_KINDS = ("txt", "caption", "text"), ("cls", "cls.txt", "label")
_NUMBERED_TEXT = re.compile(r"(?:captions?|texts?)?[-_]?(\d{1,3})\.(?:txt|caption|text)")  # one of several
_COMPARED_END = 256  # bytes; images that differ mostly differ there


@SOURCES.register("webdataset")
def open_webdataset(location: str, split: Split, limit: int | None = None, columns: ColumnNames = NO_COLUMNS) -> Source:
    """WebDataset tars: a .tar, a folder of them, or a pattern like "shards/{00000..00009}.tar".

    Raises UsageError when there are none, DistillError when a file is no tar.
    """
    files = tar_files(location.removeprefix("webdataset:"))
    where = f"The tars {location!r}"
    choice = choose([name for file in files if (name := part_of_tar(file))], split, where)
    kept = [file for file in files if not choice.parts or part_of_tar(file) in choice.parts]
    listing = TarListing(kept, files[0].parent.name, location, columns=columns)
    return serve(listing, choice, split, limit, where)


def part_of_tar(file: Path) -> str | None:
    """The split that a tar's own name or its folder's says: "train-00000.tar", "train/00000.tar"."""
    return part_of_file(file.stem) or part_of(file.parent.name)


class TarListing:
    """The samples in `files`; see `TarIndex` for which they are.

    Args:
        name, location, licence: for reports.
        columns: endings of members ("llm.txt") or, for captions, keys of their .json members; see `ColumnNames`.

    Raises UsageError when no sample has an image, DistillError when a file is no tar.
    """

    def __init__(
        self,
        files: Sequence[Path],
        name: str,
        location: str,
        licence: str = "unknown",
        columns: ColumnNames = NO_COLUMNS,
    ) -> None:
        self.name, self.location, self.licence = name, location, licence
        self.index = read_index(files)
        self._groups: Groups | None = None
        self.keys: Sequence[str] = self.index.keys
        self.fingerprint = sha256_json(self.index.footprint())
        asked = {name.lower().lstrip("."): source for name, source in columns.sources().items()}
        there = {name for name in asked if name in self.index.kinds}
        has_json = any(kind == "json" or kind.endswith(".json") for kind in self.index.kinds)
        self._tagged = {
            name: source for name, source in asked.items() if not columns.lenient or has_json or name in there
        }
        self._only = bool(columns.captions) and (not columns.lenient or bool(there))  # no other captions count
        self._image_kinds = _image_kinds(self.index.kinds)
        if columns.image:
            kind = columns.image.lower().lstrip(".")
            if kind not in self.index.kinds and not columns.lenient:
                members = ", ".join(f".{name}" for name in sorted(self.index.kinds)[:12])
                raise UsageError(f"The tars of {location!r} have no members .{kind}. Their members end in {members}.")
            self._image_kinds = [kind] if kind in self.index.kinds else self._image_kinds
        if not self._image_kinds:
            endings = ", ".join(sorted(self.index.kinds)[:12]) or "nothing"
            raise UsageError(
                f"The tars of {location!r} hold no images: their members end in {endings}; looked for "
                f"{', '.join(IMAGE_SUFFIXES)}. Published embeddings without images are read with the images' own place "
                "beside them, see docs/data.md."
            )
        self._lines = _said(files[0].parent, "dataset_type.txt") == [
            "retrieval"
        ]  # as CLIP_benchmark's sets: a caption a line
        self.templates = tuple(
            line.replace("{c}", "{}") for line in _said(files[0].parent, "zeroshot_classification_templates.txt")
        )
        self._labels, self.class_names = self._read_labels(files[0].parent)
        numbered = {kind: int(found[1]) for kind in self.index.kinds if (found := _NUMBERED_TEXT.fullmatch(kind))}
        self._numbered = sorted(numbered, key=lambda kind: (numbered[kind], kind))
        self.parts: Sequence[str | None] | None = None
        self._note = ""
        if any(kind in self.index.kinds for kind in (*TEXT_KINDS, *self._numbered, "json", *self._tagged)):
            self._groups = self._same_images()
        elif self._labels is None:
            self._read_folders()
        if self._groups:
            self.keys = Picked(self.index.keys, self._groups.firsts)
        self.read_as = self._read_as()
        check_tags_occur(self, self._tagged)

    def _read_folders(self) -> None:
        """Labels and parts by the folders that the images lie in, as in tars that are packed folders of classes."""
        rows = np.flatnonzero(self.index.first_of(self._image_kinds) >= 0)
        read = read_folders(Picked(self.index.keys, rows))
        if read.unsure:
            could, nameless = map(listed, read.unsure)
            self._note = f"folders inside are not taken for classes: {could} could be, and {nameless} are no words"
        if read.labels is not None:
            self._labels, self.class_names = np.full(len(self.index), -1, np.int64), tuple(read.class_names)
            self._labels[rows] = read.labels
        if read.parts is not None:
            codes = np.full(len(self.index), len(read.parts.values), np.int64)
            codes[rows] = read.parts.codes
            self.parts = Coded([*read.parts.values, None], codes)

    def _same_images(self) -> Groups | None:
        """Rows of equal images; only images of equal size and end are read whole and compared."""
        kinds = "-".join(self._image_kinds)
        merged = np.asarray(self.index.remember(f"same-{kinds}".replace("/", "_")[:100], self._merged)).reshape(-1, 2)
        return Groups(len(self.index), merged) if len(merged) else None

    def _merged(self) -> Array:
        """[n, 2] int64: a row whose image an earlier one has, and the first that has it; ascending."""
        members = self.index.first_of(self._image_kinds)
        sizes = self.index.member_sizes(members)
        rows = np.flatnonzero(repeated(sizes) & (sizes > 0) & (sizes <= MAX_IMAGE_BYTES))
        marks = (self._mark(row, int(members[row]), int(sizes[row])) for row in map(int, rows))
        rows = rows[repeated(np.fromiter(marks, np.int64, len(rows)))]
        merged: list[tuple[int, int]] = []
        known: dict[bytes, int] = {}  # hash of an image -> the first row that has it
        for row in rows.tolist():
            digest = self._digest(row, int(members[row]), int(sizes[row]))
            if digest is not None and (first := known.setdefault(digest, row)) < row:
                merged.append((row, first))
        return np.array(merged, np.int64).reshape(-1, 2)

    def _mark(self, row: int, member: int, size: int) -> int:
        """A number that equal images have in common, and others hardly ever."""
        try:
            return hash((size, self.index.end_of(row, member, _COMPARED_END)))
        except BadImageError:
            return hash((row, "cannot be read"))

    def _digest(self, row: int, member: int, size: int) -> bytes | None:
        try:
            data = self.index.end_of(row, member, size)
        except BadImageError:
            return None
        return digest_of(data) if len(data) == size else None

    def remember(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` finds out about this listing's rows, kept with its index where that is kept."""
        return self.index.remember(f"{name}-{len(self.keys)}", find)

    def _rows(self, sample: int) -> Sequence[int]:
        return self._groups[sample] if self._groups else (sample,)

    def _read_as(self) -> ReadAs:
        usual = ("json",) if self._only else (*TEXT_KINDS, *self._numbered, "json")
        texts = [kind for kind in self.index.kinds if kind in usual or kind in self._tagged]
        told = f"captions from members .{', .'.join(texts)}" if texts else "no captions"
        if not texts and self.class_names:
            told = MADE_FROM_CLASSES
        known = {*self._image_kinds, *LABEL_KINDS, *texts}
        counts = self.index.count_of_kinds()
        unread = {f"members .{kind}": count for kind, count in counts.items() if kind not in known}
        if self.index.problems:
            unread["members that are damaged, links, or have no plain name"] = len(self.index.problems)
        advice = ""
        if not texts and not self.class_names and unread:
            advice = f"captions are members .{', .'.join((*TEXT_KINDS, 'json'))}; others are named by --caption-column ENDING"
        notes = tuple(filter(None, [merged(self._groups), self._note, advice]))
        return ReadAs(TARS, told, len(self.class_names), notes=notes, unread=unread)

    def _read_labels(self, folder: Path) -> tuple[Array | None, tuple[str, ...]]:
        """Per sample of the index its class, -1 where it has none, and the names of the classes."""
        kind = next((kind for kind in LABEL_KINDS if kind in self.index.kinds), None)
        if kind is None:
            return None, ()
        names = _said(folder, "classnames.txt") or None
        mark, found = sha256_json([kind, names])[:16], cache(lambda: self._find_labels(kind, names))
        numbers = self.index.remember(f"labels-{mark}", lambda: found()[0])
        return numbers, tuple(self.index.remember(f"classes-{mark}", lambda: found()[1]))

    def _find_labels(self, kind: str, names: list[str] | None) -> tuple[Array, list[str]]:
        values = Coded.of(self._said_label(row, kind) for row in range(len(self.index)))
        labels = Labels(values.values, names)
        numbers = [-1 if (found := labels[place]) is None else found for place in range(len(values.values))]
        return np.array(numbers, np.int64)[values.codes], [*labels.names]

    def _said_label(self, row: int, kind: str) -> int | str | None:
        try:
            text = self.index.read(row, kind, 1024).decode("utf-8", "replace").strip()
        except BadImageError:
            return None
        return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text or None

    def image(self, row: int) -> bytes:
        """The row's image, encoded as found; BadImageError when it cannot be read."""
        key, row = self.keys[row], self._rows(row)[0]
        if row in self.index.problems:
            raise BadImageError(key, self.index.problems[row])
        members = self.index.members(row)
        kind = next((kind for kind in self._image_kinds if kind in members), None)
        if kind is None:
            raise BadImageError(key, f"it has no image in {self.index.tar_of(row).name}")
        return self.index.read(row, kind, MAX_IMAGE_BYTES)

    def captions(self, row: int) -> list[Caption]:
        """The row's captions. A .txt goes before a .json; a damaged one counts as having none."""
        return [caption for one in self._rows(row) for caption in self._captions(one)]

    def _captions(self, row: int) -> list[Caption]:
        members = self.index.members(row)
        usual = () if self._only else TEXT_KINDS
        text = next((kind for kind in usual if kind in members and kind not in self._tagged), None)
        wholes = [self._text(row, text)] if text else []
        if not text and not self._only:
            wholes = [self._text(row, kind) for kind in self._numbered if kind in members and kind not in self._tagged]
        lines = [line for whole in wholes for line in (whole.splitlines() if self._lines else [whole])]
        real = [Caption(line) for line in lines if line.strip()]
        tagged = [Caption(self._text(row, kind), source) for kind, source in self._tagged.items() if kind in members]
        for kind in members:
            if kind == "json" or (self._tagged and kind.endswith(".json")):
                try:
                    told, more = json_captions(self._text(row, kind), self._tagged)
                except (ValueError, RecursionError):
                    continue
                tagged += more
                if kind == "json" and not self._only and not any(caption.text.strip() for caption in real):
                    real = told
        return [*real, *tagged]

    def _text(self, row: int, kind: str) -> str:
        try:
            return decoded(self.index.read(row, kind, READ_AT_MOST))[0]
        except BadImageError:
            return ""

    def label(self, row: int) -> int | None:
        """The row's index into `class_names`, None when it has none."""
        found = -1 if self._labels is None else int(self._labels[self._rows(row)[0]])
        return None if found < 0 else found


def _image_kinds(kinds: Sequence[str]) -> list[str]:
    """Those that are images: plain endings in the order of IMAGE_SUFFIXES, then longer ones ("left.png")."""
    plain = [suffix[1:] for suffix in IMAGE_SUFFIXES if suffix[1:] in kinds]
    return [*plain, *(kind for kind in kinds if "." in kind and kind.endswith(IMAGE_SUFFIXES))]


def _said(folder: Path, name: str) -> list[str]:
    """The lines of a file of that name in `folder` or above it, as CLIP_benchmark's sets have them; none without it."""
    for place in (folder, folder.parent):
        try:
            with open(place / name, "rb") as stream:
                lines = decoded(stream.read(READ_AT_MOST))[0].splitlines()
        except OSError:
            continue
        if kept := [line.strip() for line in lines if line.strip()]:
            return kept
    return []

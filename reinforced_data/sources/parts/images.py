"""Image files below a folder, with captions from files of the same name, or labels from class-named sub-folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from distill.core.atomic import sha256_json
from distill.core.errors import UsageError
from reinforced_data.read_as import ReadAs, listed
from reinforced_data.sample import Caption
from reinforced_data.source import NO_COLUMNS, ColumnNames
from reinforced_data.sources.parts.columns import MADE_FROM_CLASSES, json_captions, read_image_file
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES, Found
from reinforced_data.sources.parts.listing import check_tags_occur
from reinforced_data.sources.parts.splits import part_of
from reinforced_data.sources.parts.text import READ_AT_MOST, decoded
from reinforced_data.sources.parts.words import ASIDE, folder_words

TEXT_ENDINGS = (".txt", ".caption", ".text")
_TEXT_FOLDERS = ("captions", "caption", "texts", "text", "txt", "prompts")
_MOST_LOOKED_AT = 200


class ImageListing:
    """Image files with sidecars, or class-named sub-folders, or images alone.

    Args:
        found: the files; keys are relative to its folder.
        root, licence: for reports.
        columns: captions by a key of the .json sidecars, or by the ending of files; see `ColumnNames`.
        classes: True = every top sub-folder is a class, False = none is, None = those that are words.

    Raises UsageError when there are no image files, or when some sub-folders are words and others are not.
    """

    def __init__(
        self,
        found: Found,
        root: Path,
        licence: str,
        columns: ColumnNames = NO_COLUMNS,
        classes: bool | None = None,
    ) -> None:
        self.name, self.location, self.licence = root.name, str(root), licence
        self._folder = found.folder
        self._tagged = columns.sources()
        self._only = bool(columns.captions) and not columns.lenient  # no other captions count
        self._endings = tuple(f".{name.lower().lstrip('.')}" for name in columns.captions)
        if columns.image and not columns.lenient:
            raise UsageError(
                f"The image column {columns.image!r} is of a table, and {str(root)!r} was read as images without one. Name the "
                "table: --data TABLE."
            )
        self.parts: Sequence[str | None] | None = None
        images = found.images
        self.keys: Sequence[str] = _without_masks(images) if classes is None else images
        if not self.keys:
            raise UsageError(_no_data(found))
        self._texts, self._jsons = self._sidecars(found)
        used = [*self.keys, *(side for side in (*self._texts, *self._jsons) if side)]
        self._labels: list[int] | None = None
        self.class_names: tuple[str, ...] = ()
        note = ""
        if len(used) == len(self.keys) and classes is not False:
            note = self._read_classes(classes is True)
        self.fingerprint = sha256_json([[name.encode("utf-8", "replace").decode(), found.sizes[name]] for name in used])
        check_tags_occur(self, self._tagged)
        self.read_as = self._read_as(found, used, note)

    def _sidecars(self, found: Found) -> tuple[list[str | None], list[str | None]]:
        """Per image the text file and the JSON file that belong to it, None where there is none."""
        by_lower = {name.lower(): name for name in reversed(found.sizes)}
        texts, jsons = [], []
        endings = self._endings if self._only else (*self._endings, *TEXT_ENDINGS)
        for key in self.keys:
            places = _beside(key)
            texts.append(_first(by_lower, [place + end for place in places for end in endings]))
            jsons.append(_first(by_lower, [place + ".json" for place in places]))
        looked = [name for name in texts if name][:_MOST_LOOKED_AT]
        self._not_utf8 = sum(encoding == "cp1252" for _, encoding in map(self._decoded, looked))
        self._looked_at = len(looked)
        contents = [text for name in looked if (text := self._read(name).strip())]
        self._boxes = bool(contents) and all(map(_is_boxes, contents))
        return ([None] * len(texts) if self._boxes else texts), jsons

    def _read_classes(self, forced: bool) -> str:
        """Labels from the sub-folders below what all keys share, where they are classes; else a note that says why not."""
        split = [key.split("/")[:-1] for key in self.keys]

        def parts_at(level: int) -> bool:
            """Whether the names of a level are those of parts, which then divide the images ("images/train", ...)."""
            named = [part_of(way[level]) for way in split]
            if all(named) and len({*named}) > 1:
                self.parts = named
            return all(named) and len({*named}) > 1

        depth = 0
        while all(len(way) > depth for way in split) and (len({way[depth] for way in split}) == 1 or parts_at(depth)):
            depth += 1
        if not all(len(way) > depth for way in split):
            return ""
        names = sorted({way[depth] for way in split})
        nameless = [name for name in names if folder_words(name) is None]
        if nameless and not forced:
            if len(nameless) == len(names):
                return f"its sub-folders are no classes, since their names are no words: {listed(names)}"
            raise UsageError(
                f"Are the sub-folders of {str(self._folder)!r} classes? {listed(sorted({*names} - {*nameless}))} could be, and "
                f"{listed(nameless)} {'is' if len(nameless) == 1 else 'are'} no word. If they are, rename those or write "
                f"classes:{self.location}; if not, write images:{self.location} (captions then come from a captioner)."
            )
        self.class_names = tuple(folder_words(name) or name for name in names)
        numbers = {name: number for number, name in enumerate(names)}
        self._labels = [numbers[way[depth]] for way in split]
        return ""

    def _read_as(self, found: Found, used: list[str], note: str) -> ReadAs:
        unread = found.unread(used)
        with_text = sum(
            text is not None or side is not None for text, side in zip(self._texts, self._jsons, strict=True)
        )
        if self._labels:
            return ReadAs("class folders", MADE_FROM_CLASSES, len(self.class_names), unread=unread)
        told = "no captions"
        if with_text:
            endings = sorted({PurePosixPath(name).suffix for name in used[len(self.keys) :]})
            told = f"captions from {' and '.join(endings)} files of the images' names"
        notes = [note] if note else []
        if with_text and with_text < len(self.keys):
            notes.append(f"{len(self.keys) - with_text} of {len(self.keys)} images have no such file")
        if self._not_utf8:
            notes.append(
                f"{self._not_utf8} of the first {self._looked_at} caption files are not UTF-8 and read as cp1252"
            )
        if self._boxes:
            notes.append(".txt files hold numbers (boxes?), no captions")
        if not with_text and any("/" in name or "*" in name for name in unread):
            notes.append(
                "a table, a key of .json files, or files of another ending are read by name: --caption-column NAME"
            )
        return ReadAs("images", told, notes=tuple(notes), unread=unread)

    def image(self, row: int) -> bytes:
        """The row's image, encoded as found; BadImageError when it cannot be read."""
        return read_image_file(self._folder / self.keys[row], self.keys[row], self.keys[row])

    def captions(self, row: int) -> list[Caption]:
        """The row's captions. A .txt holds real captions and goes before a .json; a damaged sidecar counts as having none."""
        lines = [Caption(line) for line in self._read(self._texts[row]).splitlines() if line.strip()]
        try:
            told, tagged = json_captions(self._read(self._jsons[row]), self._tagged)
        except (ValueError, RecursionError):
            told, tagged = [], []
        return [*lines, *tagged] if self._only else [*(lines or told), *tagged]

    def _read(self, name: str | None) -> str:
        return "" if name is None else self._decoded(name)[0]

    def _decoded(self, name: str) -> tuple[str, str]:
        try:
            with open(self._folder / name, "rb") as stream:
                return decoded(stream.read(READ_AT_MOST))
        except OSError:
            return "", "utf-8"

    def label(self, row: int) -> int | None:
        """The row's index into `class_names`, None when it has none."""
        return self._labels[row] if self._labels else None


def _beside(key: str) -> list[str]:
    """Where the captions of an image may lie, without their ending: x, x.jpg, and captions/x for images/x."""
    path = PurePosixPath(key)
    ways = [str(path.with_suffix("")), key]
    for place, part in enumerate(path.parts[:-1]):
        if part.lower() in ("images", "image", "imgs", "img", "photos", "pictures"):
            for folder in _TEXT_FOLDERS:
                ways.append(str(PurePosixPath(*path.parts[:place], folder, *path.parts[place + 1 :]).with_suffix("")))
    return ways


def _first(by_lower: Mapping[str, str], wanted: Sequence[str]) -> str | None:
    return next((by_lower[name.lower()] for name in wanted if name.lower() in by_lower), None)


def _is_boxes(text: str) -> bool:
    """Whether a text holds nothing but lines of at least four numbers, as detectors' labels do (YOLO)."""
    return all(len(line.split()) >= 4 and all(_is_number(word) for word in line.split()) for line in text.splitlines())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _without_masks(images: list[str]) -> list[str]:
    """The images outside of folders "masks", "labels", ... where others lie elsewhere."""
    kept = [name for name in images if not {part.lower() for part in name.split("/")[:-1]} & ASIDE]
    return kept or images


def _no_data(found: Found) -> str:
    packed = next((name for name in found.sizes if name.lower().endswith((".tar.gz", ".tgz", ".zip"))), None)
    advice = f"Unpack {packed!r} first." if packed else "Give the folder of the images."
    unread = ReadAs("nothing", unread=found.unread(())).line().partition("not read: ")[2]
    there = f" Everything in it was left aside: {unread}." if unread else ""
    return (
        f"The folder {str(found.folder)!r} holds no data: looked for Parquet files, tars, tables (captions.csv, "
        f"metadata.jsonl, ...) and images ({', '.join(IMAGE_SUFFIXES)}) in it and its sub-folders.{there} {advice}"
    )

"""The files below a folder, and what of them is left aside, counted by kind."""

import importlib.util
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

HEIC_SUFFIXES = (".heic", ".heif")
_PLAIN = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".jfif")
READS_HEIC = importlib.util.find_spec("pillow_heif") is not None
IMAGE_SUFFIXES = (*_PLAIN, *HEIC_SUFFIXES) if READS_HEIC else _PLAIN
_NAMED = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".parquet", ".caption", ".xml", ".mat", ".npy", ".npz", ".xlsx")
_MOST_NAMED = 2  # more files of one ending in one folder are told as a pattern


@dataclass
class Found:
    """What lies below `folder`.

    Attributes:
        sizes: relative path (with "/") -> size in bytes of every regular file, sorted; no hidden ones.
        aside: what was passed over on the way -> how many (linked folders, broken links, ...).
    """

    folder: Path
    sizes: dict[str, int] = field(default_factory=dict)
    aside: Counter[str] = field(default_factory=Counter)

    @cached_property
    def images(self) -> list[str]:
        """Those that are images by their ending; for when `sizes` is complete."""
        return [name for name in self.sizes if ending(name) in IMAGE_SUFFIXES]

    def unread(self, used: Iterable[str]) -> dict[str, int]:
        """What is left besides the files `used`, by kind -> count; tables and texts by name or pattern."""
        taken = {*used}
        counts: Counter[str] = Counter()
        named: dict[str, list[str]] = {}
        for name in self.sizes:
            suffix = ending(name)
            if name in taken or PurePosixPath(name).stem.lower() in ("license", "licence", "readme"):
                continue
            if suffix in _NAMED:
                named.setdefault(f"{PurePosixPath(name).parent}/*{suffix}".removeprefix("./"), []).append(name)
            else:
                counts[told_ending(suffix)] += 1
        patterns: dict[str, int] = {}
        for pattern, names in named.items():
            patterns |= {pattern: len(names)} if len(names) > _MOST_NAMED else {f"./{n}": 1 for n in names}
        return {**patterns, **dict(counts.most_common()), **self.aside}


def ending(name: str) -> str:
    """The last ending of a file's name, in small letters."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if stem and dot and last else ""


def told_ending(suffix: str) -> str:
    """An ending for people, with the way to read it where there is one."""
    if suffix in HEIC_SUFFIXES:
        return f"{suffix.upper()} (read with: pip install pillow-heif)"
    return suffix if suffix else "files without an ending"


def walk(folder: Path) -> Found:
    """Every file below `folder`. Links to folders are not followed."""
    found = Found(folder)
    sizes: dict[str, int] = {}
    for directory, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        found.aside["linked folders"] += sum(Path(directory, name).is_symlink() for name in names)
        below = Path(directory).relative_to(folder).as_posix()
        for name in files:  # hundreds of thousands may be there, so no object is made for each
            if name.startswith("."):
                continue
            path = os.path.join(directory, name)
            try:
                facts = os.stat(path)
            except OSError:
                facts = None
            if facts is not None and stat.S_ISREG(facts.st_mode):
                sizes[name if below == "." else f"{below}/{name}"] = facts.st_size
            else:
                found.aside["broken links" if os.path.islink(path) else "pipes and devices"] += 1
    found.sizes = dict(sorted(sizes.items()))
    found.aside = +found.aside
    return found

"""Which tars a path, a folder or a pattern means."""

import re
from pathlib import Path

from distill.core.errors import UsageError

TAR = ".tar"
_MAX_FILES = 1_000_000
_BRACES = re.compile(r"\{(?:(\d{1,12})\.\.(\d{1,12})|([^{}]*,[^{}]*))\}")


def tar_files(location: str) -> list[Path]:
    """The files that a path, a folder or a pattern means, in order. Raises UsageError when one is not there."""
    path = Path(location).expanduser()
    if path.is_dir():
        found = sorted(file for file in path.rglob("*" + TAR) if file.is_file() and not file.name.startswith("."))
        if not found:
            raise UsageError(f"The folder {location!r} holds no {TAR} files. Give the folder of the tars.")
        return found
    files = [path] if path.is_file() else [Path(name).expanduser() for name in expand_braces(location)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(files)} tars of {location!r} are not there: {str(missing[0])!r} is the first. "
            "Give a pattern of the files that are there, for example shards/{00000..00009}.tar."
        )
    return files


def expand_braces(pattern: str) -> list[str]:
    """What "a{00..11}b" (numbers, padded as written) and "a{x,y}b" stand for. Raises UsageError for a million names."""
    names = [pattern]
    while match := _BRACES.search(names[0]):
        low, high, choice = match.groups()
        if choice is not None:
            parts = choice.split(",")
        else:
            numbers = range(int(low), int(high) + 1) if int(low) <= int(high) else range(int(low), int(high) - 1, -1)
            if len(numbers) * len(names) > _MAX_FILES:
                raise UsageError(f"The pattern {pattern!r} means more than {_MAX_FILES} files. Check its numbers.")
            parts = [str(number).zfill(len(low)) for number in numbers]
        names = [name.replace(match[0], part, 1) for name in names for part in parts]
    return names

"""`open_source`: from what a user wrote after --data to a `Source`. What each kind can read is in `sources/`."""

from pathlib import Path

from distill.core.errors import UsageError, nearest
from reinforced_data.source import SOURCES, Source, Split

_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def open_source(location: str, split: Split, limit: int | None = None) -> Source:
    """Open data for one split.

    Args:
        location: "rendered[:...]" or any registered source name with what it needs after a colon ("hf:org/set"), an
            existing folder, or an existing .csv, .tsv, .jsonl or .parquet file.
        split: "train" or "eval". Parts named train / dev, val, validation, test are used where they are there; else
            10 % (at most 1,000) are held out by hash of the key.
        limit: at most this many samples of the split.

    Raises:
        UsageError: nothing of the kind is there, or it holds no data; the message names what was looked for.
        DistillError: it is there but cannot be read, or a hub set cannot be had.
    """
    if split not in ("train", "eval"):
        raise UsageError(f"Unknown split {split!r}. {nearest(str(split), ('train', 'eval'))}")
    path = Path(location).expanduser()
    head = location.partition(":")[0]
    if head in SOURCES and (":" in location or head not in ("folder", "table", "hf")):
        return SOURCES.get(head)(location, split, limit)  # "./rendered" reaches a folder of that name
    if path.is_dir():
        return SOURCES.get("folder")(location, split, limit)
    if path.is_file():
        if path.suffix.lower() in _TABLES:
            return SOURCES.get("table")(location, split, limit)
        raise UsageError(
            f"The file {location!r} is no table: {', '.join(_TABLES)} are read. Give one, or the folder of images."
        )
    raise UsageError(_not_there(location, path))


def _not_there(location: str, path: Path) -> str:
    try:
        siblings = [entry.name for entry in path.absolute().parent.iterdir()]
    except OSError:
        siblings = []
    names = [name for name in SOURCES if name not in ("folder", "table")]
    hint = nearest(path.name, [*siblings, *names])
    near = hint if hint.startswith("Did you") else ""
    return (
        f"There is no data at {location!r}: looked for a folder, a table file ({', '.join(_TABLES)}) at "
        f"{str(path.absolute())!r}, and a data source of that name (known: {', '.join(names)}; hub sets are written "
        f"hf:org/set). {near}"
    ).strip()

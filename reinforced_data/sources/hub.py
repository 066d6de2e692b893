"""Hugging Face data sets through the `datasets` library: "hf:org/set", "hf:org/set:config", or a folder that it saved.

The only source that may reach the network, and only because its name was given. Sets are downloaded whole by `datasets`
and memory-mapped; streaming is left out. Folders made by `save_to_disk` are read as they are.
"""

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError, UsageError, nearest
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.read_as import ReadAs
from reinforced_data.sample import Caption
from reinforced_data.source import NAMED, NO_COLUMNS, SOURCES, ColumnNames, Source, Split
from reinforced_data.sources.parts.columns import (
    Columns,
    captions_told,
    column_of_images,
    find_columns,
    image_bytes,
    row_captions,
)
from reinforced_data.sources.parts.kept.shelf import Sheet, is_much, shelved
from reinforced_data.sources.parts.listing import serve
from reinforced_data.sources.parts.same import Grouped, same_images, told
from reinforced_data.sources.parts.splits import Choice, choose, part_of
from reinforced_data.sources.parts.tables.listing import RowKeys, TableWriter
from reinforced_data.sources.parts.tables.rows import Row


@SOURCES.register("hf")
def open_hub(location: str, split: Split, limit: int | None = None, columns: ColumnNames = NO_COLUMNS) -> Source:
    """A Hugging Face data set, "hf:org/set[:config]". Raises DistillError when it cannot be had."""
    name, _, config = location.removeprefix("hf:").partition(":")
    if not name.strip("/"):
        raise UsageError(f"{location!r} names no data set. Write hf:org/set, for example hf:nlphuji/flickr30k.")
    if is_saved(Path(name).expanduser()):
        return open_saved(Path(name).expanduser(), split, limit, columns)
    return _open(_load(name, config or None, location), name, location, split, limit, columns)


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a set in `folder` with `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def open_saved(folder: Path, split: Split, limit: int | None, columns: ColumnNames) -> Source:
    """A set, or several splits of one, in a folder made by `save_to_disk`. Raises DistillError when it is damaged."""
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # see _load; damaged files raise many more types
        words = " ".join(str(error).split())[:200]
        raise DistillError(
            f"The data set in {str(folder)!r} cannot be read ({type(error).__name__}: {words}). It may be cut short; "
            "copy or save it again."
        ) from error
    sets = dict(data) if isinstance(data, datasets.DatasetDict) else {str(data.split or "all"): data}
    return _open(sets, folder.name, str(folder), split, limit, columns)


def _open(
    sets: Mapping[str, Any],
    name: str,
    location: str,
    split: Split,
    limit: int | None,
    columns: ColumnNames,
) -> Source:
    where = f"The data set {location!r}"
    named = {part_of(part) or part: part for part in reversed(list(sets))}  # of "train" and "train2" the first
    alone = len(sets) == 1
    if alone:  # whatever it is called, it is all that there is; a column may divide it
        part = next(iter(sets))
        choice = Choice((part,), hold_out=split in ("train", "eval"), divided=split == f"{NAMED}{part}")
    else:
        choice = choose(list(named), split, where)
        if not choice.parts:
            raise UsageError(
                f"{where} has the splits {', '.join(sets) or 'none'}; none is called train. {nearest('train', sets)}"
            )
        part = named[choice.parts[0]]
    listing = HubListing(sets[part], name, location, columns)
    return serve(listing, choice, split, limit, where)


def _load(name: str, config: str | None, location: str) -> Any:
    import datasets

    offline = not Path(name).exists() and not _hub_answers()
    try:
        with _offline(offline):
            return datasets.load_dataset(name, config)
    except Exception as error:  # the library raises its own, huggingface_hub's, httpx's, pyarrow's and fsspec's errors
        words = " ".join(str(error).split())[:200]
        reached = "; the hub does not answer" if offline else ""
        raise DistillError(
            f"The data set {location!r} is not to be had: wanted {name!r} from the Hugging Face hub or from the local "
            f"cache {datasets.config.HF_DATASETS_CACHE} ({type(error).__name__}: {words}{reached}). Check the name and "
            "the network, or download it elsewhere, copy its Parquet files into a folder and give that folder instead."
        ) from error


def _hub_answers() -> bool:
    """Whether the hub's host takes a connection. Asked first, because the libraries retry for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies().get(address.scheme):
        return True  # only the proxy can tell
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Have both libraries use their caches alone while inside."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if wanted:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


class HubListing:
    """The rows of one split of a `datasets.Dataset`; images stay encoded. `columns`: as of `open_source`."""

    def __init__(self, data: Any, name: str, location: str, columns: ColumnNames = NO_COLUMNS) -> None:
        import datasets

        self.name, self.location = name, location
        self.licence = str(data.info.license or "unknown")
        self.fingerprint = str(data._fingerprint)
        where = f"The data set {location!r}"
        data = data.with_format(None)
        self._columns: Columns = find_columns(data.column_names, where, columns, guess=lambda: _image_feature(data))
        if isinstance(data.features[self._columns.image], datasets.Image):
            data = data.cast_column(self._columns.image, datasets.Image(decode=False))
        # Tables of one column, so that asking for a caption never touches an image.
        self._images = data.select_columns([self._columns.image])
        self._texts = data.select_columns(self._columns.texts) if self._columns.texts else None
        names = getattr(data.features[self._columns.label], "names", None) if self._columns.label else None
        stats = [(str(file), file.stat()) for file in (Path(one["filename"]) for one in data.cache_files)]
        identity = [
            *("hub", self.fingerprint, str(data.split), columns.to_json(), columns.lenient),
            [[file, stat.st_size, stat.st_mtime_ns] for file, stat in stats],
        ]
        much = is_much(data.data.nbytes, len(data))
        with _readable(where):
            self._sheet = shelved(identity, much, partial(self._list, data, names), Sheet.kept)
        numbers = self._sheet.numbers
        self._groups = Grouped(numbers["starts"], numbers["rows"]) if "starts" in numbers else None
        self._labels = numbers.get("label")
        self.keys: Sequence[str] = RowKeys(self._sheet, self._groups, str(data.split or "row"))
        self.parts: Sequence[str | None] | None = self._sheet.coded("part")
        self.class_names: tuple[str, ...] = tuple(self._sheet.facts["class_names"])
        captions = captions_told(self._columns, len(self.class_names))
        self.read_as = ReadAs(
            "data set",
            captions,
            len(self.class_names),
            notes=(*(() if self.class_names else self._columns.notes), *filter(None, [told(self._groups)])),
        )

    def remember(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` finds out about this listing's rows, kept with it where it is kept."""
        return self._sheet.remember(name, find)

    def _list(self, data: Any, names: Sequence[str] | None, folder: Path | None) -> Sheet:
        """Keys, labels, parts and images that come again. `data` maps its captions from its own files."""
        data.data.table.validate(full=True)  # damaged offsets in a mapped file would crash the process
        columns = self._columns
        writer = TableWriter(columns, by_path=False, folder=folder, texts=False)
        small = [name for name in (columns.key, columns.label, columns.split) if name]
        cells = data.select_columns(small).iter(batch_size=1000) if small else [{}]
        for batch in cells:
            count = len(batch[small[0]]) if small else len(data)
            of = {name: batch[name] for name in small}
            for place in range(count):
                key, label, part = (
                    of[name][place] if name else None for name in (columns.key, columns.label, columns.split)
                )
                writer.add(Row(None, key, label, str(part) if columns.split else None, []))
        size = data.data.nbytes
        return writer.done(lambda ids: same_images(self._bytes, size, columns.key, ids), names, lambda *_: {})

    def _rows(self, sample: int) -> Sequence[int]:
        return self._groups[sample] if self._groups is not None else (sample,)

    def _bytes(self) -> Iterator[bytes | None]:
        for batch in self._images.iter(batch_size=64):
            for cell in batch[self._columns.image]:
                found = cell.get("bytes") if isinstance(cell, dict) else cell
                yield found if isinstance(found, bytes) else None

    def image(self, row: int) -> bytes:
        """The row's image, encoded as found; BadImageError when it cannot be read."""
        try:
            cell = self._images[self._rows(row)[0]][self._columns.image]
        except Exception as error:  # damaged Arrow data raises what its reader happens to raise; it costs its rows
            raise BadImageError(self.keys[row], f"its row cannot be read ({type(error).__name__})") from error
        return image_bytes(cell, Path(), self.keys[row])

    def captions(self, row: int) -> list[Caption]:
        """The row's captions as found, perhaps none."""
        if self._texts is None:
            return []
        try:
            rows = [self._texts[one] for one in self._rows(row)]
        except Exception as error:  # as above
            raise BadImageError(self.keys[row], f"its captions cannot be read ({type(error).__name__})") from error
        return [caption for cells in rows for caption in row_captions(cells, self._columns)]

    def label(self, row: int) -> int | None:
        """The row's index into `class_names`, None when it has none."""
        found = -1 if self._labels is None else int(self._labels[row])
        return None if found < 0 else found


def _image_feature(data: Any) -> str | None:
    """The one column of images of a `datasets.Dataset`, by its feature, else by what its first rows hold."""
    import datasets

    kinds = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if kinds or not len(data):
        return kinds[0] if len(kinds) == 1 else None
    rows = data[:20]
    return column_of_images({name: rows[name] for name in data.column_names})


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # see HubListing.image
        raise DistillError(
            f"{where} cannot be read ({type(error).__name__}: {str(error)[:200]}). It is damaged; "
            "copy or make it again."
        ) from error

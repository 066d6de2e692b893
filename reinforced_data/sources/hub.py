"""Hugging Face data sets through the `datasets` library: "hf:org/set" or "hf:org/set:config".

The only source that may reach the network, and only because its name was given. Sets are downloaded whole by `datasets`
and memory-mapped; streaming is left out.
"""

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError, UsageError, nearest
from reinforced_data.columns import Columns, Labels, caption_texts, find_columns, image_bytes
from reinforced_data.listing import ListedSource, held_out_rows, pick_split
from reinforced_data.source import SOURCES, Source, Split


@SOURCES.register("hf")
def open_hub(location: str, split: Split, limit: int | None = None) -> Source:
    """A Hugging Face data set, "hf:org/set[:config]". Raises DistillError when it cannot be had."""
    name, _, config = location.removeprefix("hf:").partition(":")
    if not name.strip("/"):
        raise UsageError(f"{location!r} names no data set. Write hf:org/set, for example hf:nlphuji/flickr30k.")
    sets = _load(name, config or None, location)
    where = f"The data set {location!r}"
    chosen = pick_split(list(sets), split, where)
    only = next((known for known in ("train", "training") if known in sets), None)
    part = chosen or only or (next(iter(sets)) if len(sets) == 1 else None)
    if part is None:
        raise UsageError(f"{where} has the splits {', '.join(sets)}; none is called train. {nearest('train', sets)}")
    listing = HubListing(sets[part], name, location)
    rows = range(len(listing.keys)) if chosen else held_out_rows(listing.keys, split, where)
    return ListedSource(listing, rows, split, limit)


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
    """The rows of one split of a `datasets.Dataset`; images stay encoded."""

    def __init__(self, data: Any, name: str, location: str) -> None:
        import datasets

        self.name, self.location = name, location
        self.licence = str(data.info.license or "unknown")
        self.fingerprint = str(data._fingerprint)
        self._columns: Columns = find_columns(data.column_names, f"The data set {location!r}")
        if isinstance(data.features[self._columns.image], datasets.Image):
            data = data.cast_column(self._columns.image, datasets.Image(decode=False))
        self._data = data
        # One-column tables, so that asking for a caption never touches an image.
        self._text = data.select_columns([self._columns.captions]) if self._columns.captions else None
        label = self._columns.label
        names = getattr(data.features[label], "names", None) if label else None
        self._labels = Labels(list(data[label]), names) if label else None
        self.class_names = self._labels.names if self._labels else ()
        key = self._columns.key
        self.keys: Sequence[str] = (
            [str(value) for value in data[key]] if key else [f"{data.split}-{row:08d}" for row in range(len(data))]
        )

    def image(self, row: int) -> bytes:
        """See `Listing`."""
        return image_bytes(self._data[row][self._columns.image], Path(), self.keys[row])

    def captions(self, row: int) -> list[str]:
        """See `Listing`."""
        return caption_texts(self._text[row][self._columns.captions]) if self._text is not None else []

    def label(self, row: int) -> int | None:
        """See `Listing`."""
        return self._labels[row] if self._labels else None

"""`ReinforcedData`: random access to a finished set, with every image's hash checked when it is first touched.

Shards are memory-mapped, and a view's or a caption's bytes are read alone. Drawing training pairs is the business of
`pairs`.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError
from reinforced_data.pixels.picture import Picture
from reinforced_data.sample import Caption, ReinforcedSample, View
from reinforced_data.store.codec import Encoded, decode
from reinforced_data.store.manifest import Rejected, read_manifest, software_versions
from reinforced_data.store.record_batch import StoredBatch
from reinforced_data.store.shard_file import IMAGE, TEXT, read_notes
from reinforced_data.store.shards import Files, Shards, ShardTable
from teachers.spec import TeacherFacts

if TYPE_CHECKING:
    from PIL.Image import Image

_TEXTS_KEPT = 4096  # samples whose captions and views stay in memory as Python objects


class ReinforcedData:
    """The samples of the finished set in `folder`.

    Attributes:
        manifest: what was made, and how.
        teacher_facts: by teacher name, in the order they were given.

    Raises:
        UsageError: there is no reinforced set. DistillError: it is unfinished, or a shard is missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.teacher_facts = {
            facts["name"]: TeacherFacts(
                name=facts["name"],
                width=int(facts["width"]),
                logit_scale=float(facts["logit_scale"]),
                logit_bias=float(facts["logit_bias"]),
                kind=facts["kind"],
            )
            for facts in self.manifest.teachers
        }
        shards = self.manifest.shards
        if not isinstance(shards, ShardTable):  # of very many each is looked at when it is opened
            for number in range(len(shards)):
                self._check_size(number)
        counts = shards.column("samples").to_numpy() if isinstance(shards, ShardTable) else (s.samples for s in shards)
        self._rows = Shards(
            Files(self.folder, shards),
            map(int, counts),
            partial(StoredBatch, dtype=self.manifest.embed_dtype),
            self._check_size,
        )
        self._checked = np.zeros(len(self._rows), np.bool_)  # pages of it that are not touched take no memory
        self._texts: OrderedDict[int, StoredText] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_texts": OrderedDict()}

    def _check_size(self, number: int) -> None:
        facts = self.manifest.shards[number]
        file = self.folder / facts.file
        size = file.stat().st_size if file.is_file() else None
        if size != facts.size_bytes:
            found = "is missing" if size is None else f"has {size} bytes where the manifest says {facts.size_bytes}"
            raise DistillError(f"The shard {str(file)!r} {found}. Copy it again; the manifest has its SHA-256.")

    def version_changes(self) -> dict[str, tuple[str, str]]:
        """Software whose version differs from when the set was made: name -> (then, now). Replay is exact when
        empty."""
        now = software_versions(self.manifest.rendering)
        then = self.manifest.versions
        return {name: (then[name], now[name]) for name in now if name in then and then[name] != now[name]}

    def rejected(self) -> list[Rejected]:
        """Every sample that was left out, from the shards' own metadata."""
        notes = [read_notes(self.folder / shard.file) for shard in self.manifest.shards if shard.rejected]
        return [item for note in notes if note is not None for item in note.rejected]

    def sample(self, index: int) -> ReinforcedSample:
        """Sample `index`, embeddings as float32 [A, D] and [C, D], exactly as stored (widened, not rescaled).

        Raises DistillError naming the sample when its image is not the one that was reinforced.
        """
        text = self.text(index)
        return ReinforcedSample(
            key=text.key,
            image=self.image(index),
            image_sha256=text.image_sha256,
            captions=text.captions,
            views=text.views,
            image_embeds={name: self.image_embeds(index, name) for name in self.teacher_facts},
            text_embeds={name: self.text_embeds(index, name) for name in self.teacher_facts},
        )

    def text(self, index: int) -> "StoredText":
        """Everything about sample `index` but its image and embeddings. `view` and `caption` read one alone."""
        if index not in self._texts:
            batch, place = self._rows.find(index)
            self._texts[index] = StoredText(
                key=batch.cell("key", place),
                image_sha256=batch.cell("image_sha256", place),
                size=(batch.cell("width", place), batch.cell("height", place)),
                captions=tuple(batch.caption(place, number) for number in range(batch.count("captions", place))),
                views=tuple(batch.view(place, number) for number in range(batch.count("views", place))),
            )
            if len(self._texts) > _TEXTS_KEPT:
                self._texts.popitem(last=False)
        return self._texts[index]

    def counts(self, index: int) -> tuple[int, int]:
        """(A, C): how many views and captions sample `index` has."""
        batch, place = self._rows.find(index)
        return batch.count("views", place), batch.count("captions", place)

    def key(self, index: int) -> str:
        """The key of sample `index`."""
        batch, place = self._rows.find(index)
        return str(batch.cell("key", place))

    def image_sha256(self, index: int) -> str:
        """Hex SHA-256 of its encoded image, as stored."""
        batch, place = self._rows.find(index)
        return str(batch.cell("image_sha256", place))

    def with_images(self, hashes: Collection[str]) -> Iterator[tuple[int, str]]:
        """(index, hex SHA-256) of every sample whose encoded image is among `hashes`; no image is touched."""
        for first, batch in self._rows.batches():
            for place, found in batch.places("image_sha256", hashes):
                yield first + place, found

    def view(self, index: int, view: int) -> View:
        """View number `view` of sample `index`."""
        batch, place = self._rows.find(index)
        return batch.view(place, view)

    def caption(self, index: int, caption: int) -> Caption:
        """Caption number `caption` of sample `index`."""
        batch, place = self._rows.find(index)
        return batch.caption(place, caption)

    def caption_sources(self, index: int) -> list[str]:
        """The sources of the captions of sample `index`, in their order."""
        batch, place = self._rows.find(index)
        sources: list[str] = batch.cell("caption_sources", place)
        return sources

    def image(self, index: int) -> bytes:
        """The encoded image of sample `index`; when first read, its hash is checked (DistillError names the sample)."""
        batch, place = self._rows.find(index)
        data: bytes = batch.cell("image", place)
        if not self._checked[index]:
            if hashlib.sha256(data).hexdigest() != batch.cell("image_sha256", place):
                raise DistillError(
                    f"The image of sample {self.key(index)!r} in {str(self.folder)!r} is not the one that was reinforced "
                    "(its SHA-256 differs), so its views and embeddings do not belong to it. Copy the shard again."
                )
            self._checked[index] = 1
        return data

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of the decoded upright image of sample `index`, pixels."""
        batch, place = self._rows.find(index)
        return batch.cell("width", place), batch.cell("height", place)

    def decoded(self, index: int) -> "Image":
        """The image of sample `index`, decoded and upright, see `picture`."""
        return self.picture(index).image

    def picture(self, index: int) -> Picture:
        """The image of sample `index`, to replay its views by the rule of the set.

        Raises DistillError when it does not decode to the size that was stored.
        """
        picture, size = (
            Picture(self.image(index), self.key(index), self.manifest.rendering, whole=True),
            self.size(index),
        )
        if picture.size != size:
            raise DistillError(
                f"The image of sample {self.key(index)!r} in {str(self.folder)!r} decodes to {picture.size[0]} x "
                f"{picture.size[1]} pixels; it was {size[0]} x {size[1]} when it was reinforced. Its views cannot be "
                "replayed; use the Pillow version in the manifest, or reinforce again."
            )
        return picture

    def image_embeds(self, index: int, teacher: str) -> Array:
        """The teacher's embeddings of the views of sample `index`: [A, D] float32."""
        return self._embeds(index, IMAGE, teacher)

    def text_embeds(self, index: int, teacher: str) -> Array:
        """The teacher's embeddings of the captions of sample `index`: [C, D] float32."""
        return self._embeds(index, TEXT, teacher)

    def image_embed(self, index: int, teacher: str, view: int) -> Array:
        """The teacher's embedding of one view: [D] float32."""
        return self._embed(index, IMAGE, teacher, view)

    def text_embed(self, index: int, teacher: str, caption: int) -> Array:
        """The teacher's embedding of one caption: [D] float32."""
        return self._embed(index, TEXT, teacher, caption)

    def encoded(self, index: int, side: str, teacher: str) -> Encoded:
        """A teacher's embeddings as they are stored; `side` is "image" or "text"."""
        batch, place = self._rows.find(index)
        return batch.embeds(side, teacher, place)

    def _embeds(self, index: int, side: str, teacher: str) -> Array:
        stored = self.encoded(index, side, teacher)
        return decode(stored.values, stored.scales, self.manifest.embed_dtype)

    def _embed(self, index: int, side: str, teacher: str, row: int) -> Array:
        stored = self.encoded(index, side, teacher)  # views of mapped memory: only the row below is touched
        scale = None if stored.scales is None else stored.scales[row]
        return decode(stored.values[row], scale, self.manifest.embed_dtype)


@dataclass(frozen=True)
class StoredText:
    """A stored sample without its image and embeddings; `size` is (width, height) of the decoded image in pixels."""

    key: str
    image_sha256: str
    size: tuple[int, int]
    captions: tuple[Caption, ...]
    views: tuple[View, ...]

"""`ReinforcedData`: random access to a finished set, with every image's hash checked when it is first touched.

Shards are read a row group at a time through memory maps. Drawing training pairs is the business of `pairs`.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.core.errors import DistillError
from reinforced_data.decode import decode_rgb
from reinforced_data.manifest import read_manifest, software_versions
from reinforced_data.row_groups import RowGroups
from reinforced_data.sample import Caption, ReinforcedSample, View
from reinforced_data.store import IMAGE_EMBEDS, NUMPY_DTYPES, TEXT_EMBEDS
from reinforced_data.views import view_from_plain

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Array = np.ndarray[Any, Any]

_TEXT_COLUMNS = ("key", "image_sha256", "width", "height", "captions", "caption_sources", "views")


@dataclass(frozen=True)
class TeacherFacts:
    """What a loss needs of a teacher. `logit_scale` is exponentiated; `logit_bias` is 0.0 for softmax teachers."""

    name: str
    width: int
    logit_scale: float
    logit_bias: float
    kind: Literal["softmax", "sigmoid"]


class ReinforcedData:
    """The samples of the set in folder `path`.

    Attributes:
        manifest: what was made, and how.
        teachers: facts by teacher name, in the order they were given.

    Raises:
        UsageError: there is no reinforced set. DistillError: it is unfinished, or a shard is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self.teachers = {
            facts["name"]: TeacherFacts(
                name=facts["name"],
                width=int(facts["width"]),
                logit_scale=float(facts["logit_scale"]),
                logit_bias=float(facts["logit_bias"]),
                kind=facts["kind"],
            )
            for facts in self.manifest.teachers
        }
        files = [self.path / shard.file for shard in self.manifest.shards]
        for file, shard in zip(files, self.manifest.shards, strict=True):
            size = file.stat().st_size if file.is_file() else None
            if size != shard.size_bytes:
                found = "is missing" if size is None else f"has {size} bytes where the manifest says {shard.size_bytes}"
                raise DistillError(f"The shard {str(file)!r} {found}. Copy it again; the manifest has its SHA-256.")
        self._rows = RowGroups(files, partial(_Group, dtype=NUMPY_DTYPES[self.manifest.embed_dtype]))
        self._checked = bytearray(len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def version_changes(self) -> dict[str, tuple[str, str]]:
        """Software whose version differs from when the set was made: name -> (then, now). Replay is exact when
        empty."""
        now = software_versions()
        then = self.manifest.versions
        return {name: (then[name], now[name]) for name in now if name in then and then[name] != now[name]}

    def sample(self, index: int) -> ReinforcedSample:
        """Sample `index`, embeddings as float32 [A, D] and [C, D], exactly as stored (fp16 is widened, not rescaled).

        Raises DistillError naming the sample when its image is not the one that was reinforced.
        """
        text = self.text(index)
        return ReinforcedSample(
            key=text.key,
            image=self.image(index),
            image_sha256=text.image_sha256,
            captions=text.captions,
            views=text.views,
            image_embeds={name: self.image_embeds(index, name) for name in self.teachers},
            text_embeds={name: self.text_embeds(index, name) for name in self.teachers},
        )

    def text(self, index: int) -> "StoredText":
        """Everything about sample `index` but its image and embeddings."""
        group, place = self._rows.find(index)
        return group.text(place)

    def image(self, index: int) -> bytes:
        """Its encoded image; on the first touch the hash is checked (DistillError names the sample)."""
        group, place = self._rows.find(index)
        data: bytes = group.columns["image"][place].as_py()
        if not self._checked[index]:
            text = group.text(place)
            if hashlib.sha256(data).hexdigest() != text.image_sha256:
                raise DistillError(
                    f"The image of sample {text.key!r} in {str(self.path)!r} is not the one that was reinforced (its "
                    "SHA-256 differs), so its views and embeddings do not belong to it. Copy the shard again."
                )
            self._checked[index] = 1
        return data

    def decoded(self, index: int) -> "Image":
        """Its image, decoded and upright. Raises DistillError when it does not decode to the size that was stored."""
        text = self.text(index)
        image = decode_rgb(self.image(index), text.key)
        if image.size != text.size:
            raise DistillError(
                f"The image of sample {text.key!r} in {str(self.path)!r} decodes to {image.width} x {image.height} "
                f"pixels; it was {text.size[0]} x {text.size[1]} when it was reinforced. Its views cannot be replayed; "
                "use the Pillow version in the manifest, or reinforce again."
            )
        return image

    def image_embeds(self, index: int, teacher: str) -> "Array":
        """The teacher's embeddings of the views: [A, D] float32."""
        return self._embeds(index, IMAGE_EMBEDS + teacher, self.teachers[teacher].width)

    def text_embeds(self, index: int, teacher: str) -> "Array":
        """The teacher's embeddings of the captions: [C, D] float32."""
        return self._embeds(index, TEXT_EMBEDS + teacher, self.teachers[teacher].width)

    def image_embed(self, index: int, teacher: str, view: int) -> "Array":
        """The teacher's embedding of one view: [D] float32."""
        return self._embeds(index, IMAGE_EMBEDS + teacher, self.teachers[teacher].width, view)

    def text_embed(self, index: int, teacher: str, caption: int) -> "Array":
        """The teacher's embedding of one caption: [D] float32."""
        return self._embeds(index, TEXT_EMBEDS + teacher, self.teachers[teacher].width, caption)

    def _embeds(self, index: int, column: str, width: int, row: int | None = None) -> "Array":
        import numpy as np

        group, place = self._rows.find(index)
        stored = group.numbers(column, place).reshape(-1, width)
        return (stored if row is None else stored[row]).astype(np.float32)


@dataclass(frozen=True)
class StoredText:
    """A stored sample without its image and embeddings; `size` is (width, height) of the decoded image in pixels."""

    key: str
    image_sha256: str
    size: tuple[int, int]
    captions: tuple[Caption, ...]
    views: tuple[View, ...]


class _Group:
    """A row group in memory. What is wanted of a row as Python objects is made when it is first touched, and kept."""

    def __init__(self, table: Any, dtype: str) -> None:
        self.columns = {name: table.column(name).chunk(0) for name in table.column_names}
        self.nbytes = int(table.nbytes)
        self._dtype = dtype
        self._texts: dict[int, StoredText] = {}
        self._buffers: dict[str, tuple[Array, Any]] = {}

    def text(self, place: int) -> StoredText:
        """The sample at `place`, without image and embeddings."""
        if place not in self._texts:
            cells = {name: self.columns[name][place].as_py() for name in _TEXT_COLUMNS}
            pairs = zip(cells["captions"], cells["caption_sources"], strict=True)
            self._texts[place] = StoredText(
                key=cells["key"],
                image_sha256=cells["image_sha256"],
                size=(cells["width"], cells["height"]),
                captions=tuple(Caption(text, source) for text, source in pairs),
                views=tuple(view_from_plain(value) for value in cells["views"]),
            )
        return self._texts[place]

    def numbers(self, column: str, place: int) -> "Array":
        """The numbers of a binary cell, without a copy: the array's offsets lead into its data buffer."""
        import numpy as np

        if column not in self._buffers:
            array = self.columns[column]
            _, offsets, data = array.buffers()
            self._buffers[column] = np.frombuffer(offsets, np.int32)[array.offset :], data
        offsets, data = self._buffers[column]
        start, end = int(offsets[place]), int(offsets[place + 1])
        size = np.dtype(self._dtype).itemsize
        return np.frombuffer(data, self._dtype, (end - start) // size, start)

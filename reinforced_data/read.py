"""`ReinforcedData`: random access to a finished set, with every image's hash checked when it is first touched.

Shards are read a row group at a time through memory maps. Drawing training pairs is the business of `pairs`.
"""

import hashlib
from dataclasses import dataclass
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
        self._rows = RowGroups(files)
        self._checked = bytearray(len(self._rows))
        self._dtype = NUMPY_DTYPES[self.manifest.embed_dtype]

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
        return ReinforcedSample(
            key=self.key(index),
            image=self.image(index),
            image_sha256=self._cell(index, "image_sha256").as_py(),
            captions=self.captions(index),
            views=self.views(index),
            image_embeds={name: self.image_embeds(index, name) for name in self.teachers},
            text_embeds={name: self.text_embeds(index, name) for name in self.teachers},
        )

    def key(self, index: int) -> str:
        """The key of sample `index`."""
        return str(self._cell(index, "key").as_py())

    def image(self, index: int) -> bytes:
        """Its encoded image; on the first touch the hash is checked (DistillError names the sample)."""
        data: bytes = self._cell(index, "image").as_py()
        if not self._checked[index]:
            if hashlib.sha256(data).hexdigest() != self._cell(index, "image_sha256").as_py():
                raise DistillError(
                    f"The image of sample {self.key(index)!r} in {str(self.path)!r} is not the one that was reinforced "
                    "(its SHA-256 differs), so its views and embeddings do not belong to it. Copy the shard again."
                )
            self._checked[index] = 1
        return data

    def decoded(self, index: int) -> "Image":
        """Its image, decoded and upright. Raises DistillError when it does not decode to the size that was stored."""
        image = decode_rgb(self.image(index), self.key(index))
        stored = (self._cell(index, "width").as_py(), self._cell(index, "height").as_py())
        if image.size != stored:
            raise DistillError(
                f"The image of sample {self.key(index)!r} in {str(self.path)!r} decodes to {image.width} x "
                f"{image.height} pixels; it was {stored[0]} x {stored[1]} when it was reinforced. Its views cannot be "
                "replayed; use the Pillow version in the manifest, or reinforce again."
            )
        return image

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Its C captions."""
        texts, sources = self._cell(index, "captions").as_py(), self._cell(index, "caption_sources").as_py()
        return tuple(Caption(text, source) for text, source in zip(texts, sources, strict=True))

    def views(self, index: int) -> tuple[View, ...]:
        """Its A views."""
        return tuple(view_from_plain(value) for value in self._cell(index, "views").as_py())

    def image_embeds(self, index: int, teacher: str) -> "np.ndarray[Any, Any]":
        """The teacher's embeddings of its views: [A, D] float32."""
        return self._embeds(index, IMAGE_EMBEDS + teacher, self.teachers[teacher].width)

    def text_embeds(self, index: int, teacher: str) -> "np.ndarray[Any, Any]":
        """The teacher's embeddings of its captions: [C, D] float32."""
        return self._embeds(index, TEXT_EMBEDS + teacher, self.teachers[teacher].width)

    def _embeds(self, index: int, column: str, width: int) -> "np.ndarray[Any, Any]":
        import numpy as np

        stored = np.frombuffer(self._cell(index, column).as_buffer(), self._dtype)
        return stored.reshape(-1, width).astype(np.float32)

    def _cell(self, index: int, column: str) -> Any:
        table, place = self._rows.find(index)
        return table.column(column)[place]

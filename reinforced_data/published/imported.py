"""Published reinforced sets (Apple's DataCompDR and DFNDR, or one's own in that layout) as reinforced sets of ours.

`open_published` finds the tars and joins the images, which Apple does not publish, from any source by uid;
`import_published` writes the set. No teacher runs and no weights are read: views, captions and embeddings are taken as
they are. How one sample is read is in `datacompdr`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.core.atomic import sha256_json
from distill.core.errors import DistillError, UsageError
from distill.core.existing import Existing
from distill.core.progress import Progress, silent
from reinforced_data.labelling.finished import is_finished, keep_facts
from reinforced_data.labelling.reinforce import finish, plan_sha256
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.published.datacompdr import EMBED_KINDS, MAX_TEXT_BYTES, Record, row_of
from reinforced_data.published.embed_files import MAX_EMBED_BYTES, BadRecordError
from reinforced_data.source import Source
from reinforced_data.sources.parts.columns import MAX_IMAGE_BYTES
from reinforced_data.sources.parts.files import IMAGE_SUFFIXES
from reinforced_data.sources.parts.tars.index import read_index
from reinforced_data.sources.parts.tars.places import tar_files
from reinforced_data.store.folder import disk_errors, open_output
from reinforced_data.store.manifest import (
    SCHEMA_VERSION,
    Manifest,
    Plan,
    Rejected,
    SourceFacts,
    read_manifest,
    software_versions,
)
from reinforced_data.store.names import MANIFEST_FILE, shard_name
from reinforced_data.store.row import Row
from reinforced_data.store.shard_file import write_shard
from teachers.load import resolve_teacher
from teachers.spec import TeacherSpec

# Teachers in the order of their columns, with the logit scale of the published recipe (MobileCLIP2's table 3 for DFNDR).
PUBLISHED = {
    "datacompdr": {"openai-vitl14": 100.0, "datacomp-vitl14": 100.0},
    "dfndr": {"dfn-vitl14": 70.0, "dfn-vitl14-39b": 60.0},
}
# Of views, captions and embeddings, on Apple's pages of both sets; the images have terms of their own.
KNOWLEDGE_LICENCE, UNKNOWN_LICENCE = "CC-BY-NC-ND-4.0", "unknown"
_TEXT_KINDS = ("txt", "json", "syn.json", "paug.json")


def published_teachers(teacher_names: Sequence[str], location: str) -> dict[TeacherSpec, float]:
    """The teachers of a published set and their logit scales (exponentiated), in the order of their columns.

    Args:
        teacher_names: what the user says; when empty, those of the set that `location` names ("DataCompDR" or "DFNDR").

    Raises UsageError when neither tells, or for a sigmoid teacher, whose bias is not published.
    """
    known = _known(location)
    chosen = list(teacher_names) or list(PUBLISHED.get(known or "", ()))
    if not chosen:
        raise UsageError(
            f"Whose embeddings does {location!r} hold? Name its teachers in the order of their columns: DataCompDR's are "
            "--teacher openai-vitl14 --teacher datacomp-vitl14, DFNDR's --teacher dfn-vitl14 --teacher dfn-vitl14-39b."
        )
    scales = {name: scale for table in PUBLISHED.values() for name, scale in table.items()}
    teacher_scales = {}
    for name in chosen:
        spec = resolve_teacher(name)
        if spec.kind != "softmax":
            raise UsageError(f"Teacher {name!r} is a sigmoid one; published sets do not tell its bias. Leave it out.")
        teacher_scales[spec] = scales.get(name) or spec.logit_scale or 100.0
    if len(teacher_scales) < len(chosen):
        raise UsageError(f"A teacher is named twice: {', '.join(chosen)}. Name each once.")
    return teacher_scales


def _known(location: str) -> str | None:
    """Which of the `PUBLISHED` sets a place's name says that it is."""
    told = location.lower().replace("-", "")
    return next((name for name in PUBLISHED if name in told), None)


class ImagesByUid:
    """The samples of `sources` by uid: the part of their keys after the last "/" and before the first dot.

    A uid that two samples have is not served, since which is meant cannot be told.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._places: dict[str, tuple[int, int] | None] = {}
        for number, source in enumerate(self._sources):
            key_of: Callable[[int], str] = getattr(source, "key", None) or (lambda index, s=source: s[index].key)
            for index in range(len(source)):
                uid = uid_of(key_of(index))
                self._places[uid] = None if uid in self._places else (number, index)
        self.fingerprint = sha256_json([source.fingerprint for source in self._sources])
        self.licence = "; ".join(dict.fromkeys(source.licence for source in self._sources))

    def find(self, key: str) -> tuple[bytes, list[str]]:
        """(encoded image, real captions). Raises BadImageError when there is none, or it cannot be read."""
        uid = uid_of(key)
        place = self._places.get(uid)
        if place is None:
            many = "two images have" if uid in self._places else "no image has"
            raise BadImageError(key, f"{many} its uid")
        sample = self._sources[place[0]][place[1]]
        return sample.image, [caption.text for caption in sample.captions if caption.source == "real"]


def uid_of(key: str) -> str:
    """ "shards/ab12.jpg" -> "ab12"."""
    return key.rpartition("/")[2].partition(".")[0]


class PublishedSet:
    """The samples of tars in the DataCompDR layout, in order, by index. Picklable as far as its image sources are.

    Args:
        files: the tars.
        teacher_scales: the teachers and their logit scales, see `published_teachers`.
        images: where images that are not in the tars come from; None when all are.

    Raises UsageError when there are no embeddings in the tars, DistillError when a file is no tar.
    """

    def __init__(
        self,
        files: Sequence[Path],
        teacher_scales: Mapping[TeacherSpec, float],
        images: ImagesByUid | None = None,
        location: str = "",
    ) -> None:
        self.files, self.teacher_scales, self.images = list(files), dict(teacher_scales), images
        self.index = read_index(files)
        self.name, self.location = self.files[0].stem, location or str(self.files[0])
        terms = KNOWLEDGE_LICENCE if _known(self.location) else UNKNOWN_LICENCE
        self.licence = "; ".join(
            [*([f"images: {images.licence}"] if images else []), f"what is published of them: {terms}"]
        )
        if not any(kind in self.index.kinds for kind in EMBED_KINDS):
            raise UsageError(
                f"The tars of {self.location!r} are no published reinforced set: no member ends in .npz or .pth.gz. "
                "Give them as --data to have teachers label them."
            )
        self._image_kinds = [suffix[1:] for suffix in IMAGE_SUFFIXES if suffix[1:] in self.index.kinds]
        names = [[spec.name, spec.width] for spec in self.teacher_scales]
        self.fingerprint = sha256_json([self.index.footprint(), images.fingerprint if images else "", names])

    def __len__(self) -> int:
        return len(self.index)

    def row(self, index: int) -> Row | Rejected:
        """Sample `index` as a row, or the reason against it."""
        key = self.index.keys[index]
        try:
            if index in self.index.problems:
                raise BadRecordError(self.index.problems[index])
            return self._row(index)
        except (BadRecordError, BadImageError) as error:
            clean = BadImageError(key, error.reason)  # cleans both words
            return Rejected(key=clean.key, reason=clean.reason)
        except RecursionError:
            return Rejected(key=BadImageError(key, "").key, reason="its JSON is nested too deeply")

    def rows(self, indices: Sequence[int]) -> tuple[list[Row], list[Rejected]]:
        """Rows and rejected samples of `indices`, both in order."""
        found = [self.row(index) for index in indices]
        return [item for item in found if isinstance(item, Row)], [item for item in found if isinstance(item, Rejected)]

    def _row(self, index: int) -> Row:
        members = self.index.members(index)
        kind = next((kind for kind in EMBED_KINDS if kind in members), None)
        if kind is None:
            raise BadRecordError("it has neither .npz nor .pth.gz")
        for needed in ("paug.json", "syn.json"):
            if needed not in members:
                raise BadRecordError(f"it has no {needed}")
        texts = {name: self.index.read(index, name, MAX_TEXT_BYTES) for name in _TEXT_KINDS if name in members}
        key = BadImageError(self.index.keys[index], "").key
        real: list[str] = []
        own = next((name for name in self._image_kinds if name in members), None)
        if own is not None:
            image = self.index.read(index, own, MAX_IMAGE_BYTES)
        elif self.images is not None:
            image, real = self.images.find(key)
        else:
            raise BadImageError(key, "its image is not in the tar, and no place of images was given")
        record = Record(key, texts, (kind, self.index.read(index, kind, MAX_EMBED_BYTES)))
        return row_of(record, image, real, [(spec.name, spec.width) for spec in self.teacher_scales])


def read_dr_shard(
    path: Path, images: ImagesByUid | None, teacher_scales: Mapping[TeacherSpec, float]
) -> tuple[list[Row], list[Rejected]]:
    """One tar at once: its rows and its rejected samples, in order. Raises UsageError and DistillError as the set does."""
    shard = PublishedSet([path], teacher_scales, images)
    return shard.rows(range(len(shard)))


def open_published(
    location: str, image_sources: Sequence[Source] = (), teacher_names: Sequence[str] = ()
) -> PublishedSet:
    """A published set.

    Args:
        location: a .tar, a folder of tars, or a pattern like "dr/{00000000..00001023}.tar".
        image_sources: joined by uid; none when the tars hold the images.
        teacher_names: see `published_teachers`.

    Raises UsageError or DistillError when it cannot be had.
    """
    images = ImagesByUid(image_sources) if image_sources else None
    return PublishedSet(tar_files(location), published_teachers(teacher_names, location), images, location)


def import_published(
    published: PublishedSet,
    folder: Path,
    settings: ReinforceSettings = ReinforceSettings(),  # noqa: B008 - frozen
    *,
    existing: Existing = Existing.REFUSE,
    progress: Progress = silent,
) -> Manifest:
    """Write a published set as a reinforced set of ours into `folder`. A kill costs one shard, as with `reinforce`.

    Args:
        settings: their embed_dtype and shard_size; views and captions are those that were published.
        existing: what to do about what is in the folder; a published set cannot be extended.
        progress: counts samples.

    Raises OutputExistsError, UsageError or DistillError as `labelling.reinforce.reinforce` does.
    """
    plan = open_output(folder, _plan(published, settings), existing)
    if (folder / MANIFEST_FILE).is_file():
        return read_manifest(folder)
    digest, size = plan_sha256(plan), plan.shard_size
    count = -(-len(published) // size)
    for number, start in enumerate(range(0, len(published), size)):
        path, indices = folder / shard_name(number, count), range(start, min(start + size, len(published)))
        if not is_finished(path, digest):
            rows, rejected = published.rows(indices)
            with disk_errors(folder):
                write_shard(path, plan, digest, rows, rejected)
                keep_facts(path, digest)
        progress(indices.stop, len(published), "samples")
    manifest = finish(folder)
    if manifest is None:
        raise DistillError(f"A shard of {str(folder)!r} vanished while the set was made. Call again with --resume.")
    return manifest


def _plan(published: PublishedSet, settings: ReinforceSettings) -> Plan:
    return Plan(
        schema_version=SCHEMA_VERSION,
        source=SourceFacts(
            name=published.name,
            location=published.location,
            licence=published.licence,
            fingerprint=published.fingerprint,
            samples=len(published),
        ),
        teachers=[_teacher_record(spec, scale) for spec, scale in published.teacher_scales.items()],
        captioners=[],
        sentences=False,
        view_preset="published",
        views_per_image=0,  # each sample has as many as were published
        seed=0,
        embed_dtype=settings.embed_dtype,
        shard_size=settings.shard_size,
        batch_size=0,
        versions=software_versions("pillow"),
        parents=[],
    )


def _teacher_record(spec: TeacherSpec, scale: float) -> dict[str, Any]:
    """What `manifest.teacher_record` says of a loaded teacher, from its spec alone: no weights are read here."""
    return {
        "spec": asdict(spec),
        "name": spec.name,
        "width": spec.width,
        "image_size": spec.image_size,
        "kind": spec.kind,
        "licence": spec.licence,
        "commercial": spec.commercial,
        "logit_scale": scale,
        "logit_bias": 0.0,
        "weights_sha256": "unknown: embeddings as published",
    }

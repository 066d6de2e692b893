"""What a reinforced set is: `plan.json` (what shall be made, written first) and `manifest.json` (what was made, last).

A folder with a plan and no manifest is unfinished. Neither file holds a time or a host name, so that a run that was
killed and resumed leaves the same bytes as one that was not.
"""

import json
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from distill.core.atomic import read_json, write_json
from distill.core.errors import DistillError, UsageError
from distill.core.strict import Strict, parse
from reinforced_data.pixels.rendering import Rendering
from reinforced_data.store.dtypes import EmbedDtype, TeacherPrecision
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE
from reinforced_data.store.shards import ShardFacts, ShardTable

SCHEMA_VERSION = 2
UNWRITTEN = (("rendering", "pillow"), ("teacher_precision", "no"))  # what every plan was before it could say otherwise
# Recorded, but no reason to refuse a resume: they do not change a stored byte.
_NOT_COMPARED = ("source.location", "versions.python", "parents")
REJECTED_LISTED = 10_000  # more than these are counted by reason in the manifest; every shard lists its own


class SourceFacts(Strict):
    """The source as it was: how many samples it offered, rejected ones included, and which columns of it the user named."""

    name: str
    location: str
    licence: str
    fingerprint: str
    samples: int
    columns: dict[str, Any] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_no_columns(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sets of which nobody named columns say nothing of them: the hash of a record is its set's identity."""
        return {name: value for name, value in plain(self).items() if name != "columns" or value}


class Rejected(Strict):
    """A sample that was left out, and why."""

    key: str
    reason: str


class Plan(Strict):
    """Everything that decides the bytes of the shards.

    Attributes:
        teachers: per teacher its `describe()`, which with name, width, image_size, kind, licence, commercial,
            logit_scale (exponentiated), logit_bias and weights_sha256 is complete.
        captioners: per captioner its `describe()`, completed with name, licence, commercial, weights_sha256 and decode.
        sentences: whether the sentences of long captions were stored as captions of their own (see `reinforced_data.sentences`).
        view_preset, views_per_image, seed: how views were drawn.
        rendering: by which rule they became pixels; "pillow", that of all sets made before there was a choice, is not written.
        embed_dtype: see `dtypes`, little-endian.
        shard_size: source samples per shard. batch_size: teacher inputs per forward.
        teacher_precision: in what arithmetic teachers ran; "no", float32, is not written, as it was before there was a choice.
        versions: of Python, Pillow, NumPy, PyArrow, torch, and with the rule "turbo" simplejpeg.
        parents: hashes of the plans that this one extends, oldest first (see `folder.open_output`).
    """

    schema_version: int
    source: SourceFacts
    teachers: list[dict[str, Any]]
    captioners: list[dict[str, Any]]
    sentences: bool
    view_preset: str
    rendering: Rendering = "pillow"
    views_per_image: int
    seed: int
    embed_dtype: EmbedDtype
    shard_size: int
    batch_size: int
    teacher_precision: TeacherPrecision = "no"
    versions: dict[str, str]
    parents: list[str]

    @model_serializer(mode="wrap")
    def _without_first_choices(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The hash of a plan is in every shard: plans made before there was a choice keep theirs.
        values: dict[str, Any] = write(self)
        return {key: value for key, value in values.items() if (key, value) not in UNWRITTEN}


class Manifest(Plan):
    """A finished set: the plan, the shards, what was left out, and the terms that bind it.

    Attributes:
        captions: how many, by their source.
        shards: in their order; of more than `LISTED_SHARDS` manifest.json names the file that has them.
        rejected: the first REJECTED_LISTED samples that were left out; every shard's metadata lists its own.
        rejected_reasons: how many samples each reason cost, over all shards.
    """

    samples: int
    captions: dict[str, int]
    shards: ShardTable | list[ShardFacts] = Field(union_mode="left_to_right")  # else a table would be tried as a list
    rejected: list[Rejected]
    rejected_reasons: dict[str, int]
    licence_summary: str


def software_versions(rendering: Rendering) -> dict[str, str]:
    """Versions of what decodes, draws, encodes and writes under a rule of rendering."""
    import numpy
    import PIL
    import pyarrow
    import torch

    versions = {
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "numpy": numpy.__version__,
        "pyarrow": pyarrow.__version__,
        "torch": torch.__version__,
    }
    if rendering == "turbo":
        import simplejpeg

        versions["simplejpeg"] = simplejpeg.__version__
    return versions


def teacher_record(teacher: Any) -> dict[str, Any]:
    """A teacher's `describe()` as plain JSON, completed with the facts that readers rely on."""
    spec = teacher.spec
    facts = {
        **teacher.describe(),
        "name": spec.name,
        "width": spec.width,
        "image_size": spec.image_size,
        "kind": spec.kind,
        "licence": spec.licence,
        "commercial": spec.commercial,
        "logit_scale": float(teacher.logit_scale),
        "logit_bias": float(teacher.logit_bias),
        "weights_sha256": teacher.weights_sha256,
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str, sort_keys=True))
    return plain


def captioner_record(captioner: Any) -> dict[str, Any]:
    """A captioner's `describe()` as plain JSON, completed with the facts that readers rely on."""
    spec = captioner.spec
    facts = {
        **captioner.describe(),
        "name": spec.name,
        "licence": spec.licence,
        "commercial": spec.commercial,
        "decode": captioner.settings.model_dump(),
        "weights_sha256": captioner.weights_sha256,
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str, sort_keys=True))
    return plain


def licence_summary(
    source: SourceFacts, teachers: list[dict[str, Any]], captioners: Iterable[dict[str, Any]] = ()
) -> str:
    """One line: the terms of the data, every teacher and captioner, and whether any of them forbids commercial use."""
    parts = [f"data {source.name}: {source.licence}"]
    parts += [f"teacher {facts['name']}: {facts['licence']}" for facts in teachers]
    parts += [f"captioner {facts['name']}: {facts['licence']}" for facts in captioners]
    models = [*teachers, *captioners]
    closed = [str(facts["name"]) for facts in models if not facts["commercial"]]
    noun = "teacher or captioner" if len(models) > len(teachers) else "teacher"
    parts.append(f"no commercial use because of {', '.join(closed)}" if closed else f"no {noun} forbids commercial use")
    return "; ".join(parts)


def reasons_of(rejected: Iterable[Rejected]) -> dict[str, int]:
    """How many samples each reason cost, most first; numbers inside a reason (sizes, offsets) are not told apart."""
    return most_first(Counter(_kind(item.reason) for item in rejected))


def _kind(reason: str) -> str:
    return re.sub(r"\d+", "N", reason)[:120]


def by_example(reasons: Mapping[str, int], rejected: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """What `reasons_of` says, for people: each in the words of the first sample that it cost, as far as they are listed."""
    words: dict[str, str] = {}
    for item in rejected:
        words.setdefault(_kind(item["reason"]), item["reason"])
    return {words.get(reason, reason): count for reason, count in reasons.items()}


def most_first(reasons: Mapping[str, int]) -> dict[str, int]:
    """The same reasons, those that cost most first."""
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def differences(old: Plan, new: Plan) -> list[str]:
    """The keys in which two plans differ, each with both values, in words; empty when a resume may go on."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [key for key in (before | after) if key not in _NOT_COMPARED and before.get(key) != after.get(key)]
    for models in ("teachers", "captioners"):  # of a model that only one plan has, its name says enough
        names = [[facts["name"] for facts in getattr(plan, models)] for plan in (old, new)]
        for name in set(names[0]) ^ set(names[1]):
            keys = [key for key in keys if not key.startswith(f"{models}.{name}.")]
    return [f"{key} ({_short(before.get(key))} before, {_short(after.get(key))} now)" for key in keys]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {key: item for name, part in value.items() for key, item in _flat(part, f"{prefix}{name}.").items()}
    if isinstance(value, list) and value and prefix in ("teachers.", "captioners."):
        named = {str(part.get("name", place)): part for place, part in enumerate(value)}
        return {prefix.rstrip("."): list(named), **_flat(named, prefix)}
    return {prefix.rstrip("."): value}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def write_record(folder: Path, record: Plan) -> None:
    """Write a plan or a manifest under its own name in `folder`, atomically."""
    name = MANIFEST_FILE if isinstance(record, Manifest) else PLAN_FILE
    write_json(folder / name, record.model_dump(mode="json"), shared=True)


def read_plan(folder: Path) -> Plan:
    """The plan in `folder`. Raises DistillError when it cannot be read."""
    return parse(Plan, _read(folder / PLAN_FILE), str(folder / PLAN_FILE))


def is_planned(folder: Path, plan: Plan) -> bool:
    """Whether the set in `folder` follows `plan` (apart from what does not change a stored byte)."""
    return (folder / PLAN_FILE).is_file() and not differences(read_plan(folder), plan)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished set.

    Raises UsageError when `folder` is no reinforced set, DistillError when it is unfinished or of a later format.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}. Give one that `distill reinforce` made.")
    file = folder / MANIFEST_FILE
    if not file.is_file():
        if (folder / PLAN_FILE).is_file():
            raise DistillError(
                f"The reinforced set {str(folder)!r} is unfinished: it has a {PLAN_FILE} and no {MANIFEST_FILE}. Run "
                "the command that made it again with --resume; finished shards are kept."
            )
        raise UsageError(f"The folder {str(folder)!r} is no reinforced set: it has no {MANIFEST_FILE}.")
    values = _read(file)
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DistillError(
            f"The reinforced set {str(folder)!r} has schema version {version!r}; this program reads {SCHEMA_VERSION}. "
            "Use the version of distill-edge that wrote it, or reinforce again."
        )
    if isinstance(values.get("shards"), dict):
        values["shards"] = ShardTable.described(folder, values["shards"])
    return parse(Manifest, values, str(file))


def _read(file: Path) -> dict[str, Any]:
    try:
        values = read_json(file)
    except (OSError, ValueError) as error:
        raise DistillError(f"{str(file)!r} cannot be read ({error}). Copy it again, or reinforce again.") from error
    if not isinstance(values, dict):
        raise DistillError(f"{str(file)!r} holds no JSON object. Copy it again, or reinforce again.")
    return values

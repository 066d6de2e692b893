"""`reinforce`: run the teachers over a source once and store what they know; a kill costs one shard.

The folder holds plan.json (written first), shard-*.parquet (see `store`) and manifest.json (written last). A shard's
name and bytes are a function of the plan and of its place in the source, so `resume` after any kill gives the files of
an uninterrupted run. One process does the work; sharing it is left out here.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from distill.core.atomic import PARTIAL, fsync_dir, sha256_file, sha256_json
from distill.core.errors import DistillError, OutputExistsError, UsageError
from reinforced_data.label import label_shard
from reinforced_data.manifest import (
    MANIFEST_FILE,
    PLAN_FILE,
    SCHEMA_VERSION,
    Manifest,
    Plan,
    Rejected,
    ShardFacts,
    SourceFacts,
    differences,
    licence_summary,
    read_manifest,
    read_plan,
    software_versions,
    teacher_facts,
    write_record,
)
from reinforced_data.source import Source
from reinforced_data.store import read_notes, shard_name, write_shard
from reinforced_data.views import view_preset
from teachers.teacher import Teacher


def reinforce(
    source: Source,
    teachers: Sequence[Teacher],
    out: Path,
    *,
    views_per_image: int = 1,
    view_preset: str = "none",
    embed_dtype: Literal["fp16", "fp32"] = "fp16",
    shard_size: int = 1000,
    batch_size: int = 64,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Store the embeddings of every teacher for `views_per_image` views and all captions of each sample in `out`.

    Samples that cannot be used (bad image, no caption, embedding not finite) are left out and listed with their reason.

    Args:
        resume: go on with what is in `out`; refused when the settings differ, naming them.
        overwrite: first remove the reinforced set in `out`.
        progress: called with (samples done, samples in all).

    Raises:
        OutputExistsError: `out` is not empty and neither resume nor overwrite was said.
        UsageError: the settings are wrong, or differ from those of the set to resume.
        DistillError: no sample could be used, the disk is full or not writable, or a teacher is faulty.
    """
    out = Path(out)
    plan = _plan(source, teachers, views_per_image, view_preset, embed_dtype, shard_size, batch_size, seed)
    total = len(source)
    plan = _start(out, plan, resume, overwrite)
    if (out / MANIFEST_FILE).is_file():
        return read_manifest(out)
    plan_sha256 = sha256_json(plan.model_dump(mode="json"))
    shards: list[ShardFacts] = []
    rejected: list[Rejected] = []
    done = 0

    def report(more: int = 1) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, total)

    for number, start in enumerate(range(0, total, shard_size)):
        path = out / shard_name(number)
        indices = range(start, min(start + shard_size, total))
        notes = read_notes(path) if path.is_file() else None
        if notes is not None and notes.plan_sha256 == plan_sha256:
            report(len(indices))
        else:
            rows, bad = label_shard(source, indices, teachers, plan, report)
            with _disk_errors(out):
                write_shard(path, plan, plan_sha256, rows, bad)
            notes = read_notes(path)
            if notes is None:
                raise DistillError(
                    f"The shard {str(path)!r} cannot be read back. Check the disk, then call with --resume."
                )
        shards.append(_shard_facts(path, notes.samples, notes.captions, len(notes.rejected)))
        rejected += notes.rejected
    return _finish(out, plan, shards, rejected)


def _finish(out: Path, plan: Plan, shards: list[ShardFacts], rejected: list[Rejected]) -> Manifest:
    samples = sum(shard.samples for shard in shards)
    if not samples:
        reasons = "; ".join(f"{item.key}: {item.reason}" for item in rejected[:3])
        raise DistillError(
            f"None of the {plan.source.samples} samples of {plan.source.location!r} could be used ({reasons}). "
            "Training needs images that decode, each with at least one caption."
        )
    manifest = Manifest(
        **dict(plan),
        samples=samples,
        shards=shards,
        rejected=rejected,
        licence_summary=licence_summary(plan.source, plan.teachers),
    )
    with _disk_errors(out):
        write_record(out, manifest)
    return manifest


def _plan(
    source: Source,
    teachers: Sequence[Teacher],
    views_per_image: int,
    preset: str,
    embed_dtype: Literal["fp16", "fp32"],
    shard_size: int,
    batch_size: int,
    seed: int,
) -> Plan:
    for name, value, least in (
        ("views_per_image", views_per_image, 1),
        ("shard_size", shard_size, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UsageError(f"{name} must be at least {least} (got {value}).")
    if embed_dtype not in ("fp16", "fp32"):
        raise UsageError(f"embed_dtype must be 'fp16' or 'fp32' (got {embed_dtype!r}).")
    if view_preset(preset).scale is None and views_per_image > 1:
        raise UsageError(
            f"The view preset {preset!r} always gives the same view; storing it {views_per_image} times is waste. Set "
            "views_per_image to 1, or choose the preset 'light' or 'mobileclip'."
        )
    names = [teacher.spec.name for teacher in teachers]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"Name at least one teacher, each once (got {', '.join(names) or 'none'}).")
    return Plan(
        schema_version=SCHEMA_VERSION,
        source=SourceFacts(
            name=source.name,
            location=str(getattr(source, "location", source.name)),
            licence=source.licence,
            fingerprint=source.fingerprint,
            samples=len(source),
        ),
        teachers=[teacher_facts(teacher) for teacher in teachers],
        view_preset=preset,
        views_per_image=views_per_image,
        seed=seed,
        embed_dtype=embed_dtype,
        shard_size=shard_size,
        batch_size=batch_size,
        versions=software_versions(),
    )


def _start(out: Path, plan: Plan, resume: bool, overwrite: bool) -> Plan:
    """Make `out` ready; returns the plan to follow (the stored one on a resume, whose bytes the manifest repeats)."""
    if resume and overwrite:
        raise UsageError("Say either --resume (go on) or --overwrite (begin anew), not both.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"The output {str(out)!r} is a file. Give a folder, or a name that does not exist yet.")
    present = sorted(file.name for file in out.iterdir()) if out.is_dir() else []
    ours = PLAN_FILE in present or MANIFEST_FILE in present or all(name.startswith(PARTIAL) for name in present)
    if present and not (resume or overwrite):
        raise OutputExistsError(
            f"The output {str(out)!r} exists and is not empty. Call with --resume to go on with it, --overwrite to "
            "begin anew, or choose another name."
        )
    if not ours:
        raise UsageError(
            f"The folder {str(out)!r} holds other files ({present[0]}, ...) and no reinforced set. Choose another."
        )
    if overwrite:
        with _disk_errors(out):
            _remove(out)
    elif PLAN_FILE in present:
        stored = read_plan(out)
        differing = differences(stored, plan)
        if differing:
            words = "; ".join(differing)
            raise UsageError(
                f"The set in {str(out)!r} was begun with other settings, so it cannot be resumed: {words}. Call "
                "with the old settings, with --overwrite, or with another output."
            )
        return stored
    with _disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        fsync_dir(out.parent)
        write_record(out, plan)
    return plan


def _remove(out: Path) -> None:
    """Remove a reinforced set, the plan last: a kill on the way leaves a folder that is still known to be ours."""
    names = [MANIFEST_FILE, *(file.name for file in out.glob("shard-*.parquet")), PLAN_FILE]
    names[1:1] = [file.name for file in out.glob(PARTIAL + "*")]
    for name in names:
        (out / name).unlink(missing_ok=True)


def _shard_facts(path: Path, samples: int, captions: int, rejected: int) -> ShardFacts:
    return ShardFacts(
        file=path.name,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        samples=samples,
        captions=captions,
        rejected=rejected,
    )


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DistillError(
            f"The output {str(out)!r} cannot be written ({error.strerror or error}). Make room or choose another "
            "place; finished shards are kept and --resume goes on from there."
        ) from error

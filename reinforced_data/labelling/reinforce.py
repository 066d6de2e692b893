"""`reinforce` and `work`: run teachers and captioners over a source once and store what they know; a kill costs one shard.

The folder holds plan.json (written first), shard-*.arrow (see `store.shard_file`) and manifest.json (written last). A shard's name
and bytes are a function of the plan and of its place in the source. So `resume` after any kill gives the files of an
uninterrupted run, and any number of processes may share the work without talking to each other: process `rank` of
`world` makes the missing shards whose number is `rank` modulo `world`, and whoever finds all shards there writes the
manifest. What runs the processes (accelerate, a cluster) is left out here.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from distill.core.atomic import sha256_json
from distill.core.errors import DistillError, UsageError
from distill.core.existing import Existing
from distill.core.progress import Progress, silent
from reinforced_data.labelling.finished import FinishedShard, finished_facts, forget_facts, is_finished, keep_facts
from reinforced_data.labelling.plan import make_plan
from reinforced_data.labelling.precision import refuse_coarse
from reinforced_data.labelling.preparation.ahead import prepared
from reinforced_data.labelling.preparation.prepare import Preparation
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.labelling.shard import label_shard
from reinforced_data.source import Source
from reinforced_data.store.folder import disk_errors, open_output
from reinforced_data.store.manifest import (
    REJECTED_LISTED,
    Manifest,
    Plan,
    Rejected,
    licence_summary,
    most_first,
    read_manifest,
    read_plan,
    reasons_of,
    write_record,
)
from reinforced_data.store.names import FACTS_GLOB, MANIFEST_FILE, shard_name
from reinforced_data.store.record_batch import StoredBatch
from reinforced_data.store.row import Row
from reinforced_data.store.shard_file import read_notes, write_shard
from reinforced_data.store.shards import LISTED_SHARDS, ShardFacts, Shards, ShardTable
from teachers.captioner import Captioner
from teachers.teacher import Teacher


def reinforce(
    source: Source,
    teachers: Sequence[Teacher],
    folder: Path,
    settings: ReinforceSettings = ReinforceSettings(),  # noqa: B008 - frozen
    *,
    captioners: Sequence[Captioner] = (),
    seed: int = 0,
    existing: Existing = Existing.REFUSE,
    progress: Progress = silent,
    workers: int = 0,
) -> Manifest:
    """Make a set in this process alone: `make_plan`, `open_output` and `work`, which several processes call apart.

    Samples that cannot be used (bad image, no caption, embedding not finite) are left out and listed with their reason.

    Args:
        folder: of the set.
        captioners: each adds its captions to every sample's own.
        seed: of the views and of the captioners' sampling.
        existing: what to do about what is in the folder. EXTEND adds teachers, captioners or views to the set there,
            computing only what it lacks.
        progress: counts samples.
        workers: processes that decode and render, see `work`.

    Raises:
        OutputExistsError: the folder is not empty and `existing` is REFUSE.
        UsageError: the settings make no sense, differ from those of the set to resume, or ask for too coarse an arithmetic.
        DistillError: no sample could be used, the disk is full or not writable, or a model is faulty.
    """
    plan = make_plan(source, teachers, captioners, settings, seed)
    refuse_coarse(source, teachers, plan)
    open_output(folder, plan, existing)
    manifest = work(source, teachers, folder, captioners=captioners, progress=progress, workers=workers)
    if manifest is None:
        raise DistillError(
            f"A shard of {str(folder)!r} vanished while the set was being made. Call again with --resume, and see that "
            "no other program writes there."
        )
    return manifest


def work(
    source: Source,
    teachers: Sequence[Teacher],
    folder: Path,
    *,
    captioners: Sequence[Captioner] = (),
    rank: int = 0,
    world: int = 1,
    progress: Progress = silent,
    workers: int = 0,
) -> Manifest | None:
    """Make this process's missing shards of the set that is planned in `folder` (see `folder.open_output`).

    Samples are decoded and rendered ahead of the models, those of the next shard too, and a shard is written while the
    next one is labelled.

    Args:
        rank, world: this process makes the shards whose number is `rank` modulo `world`. A rerun may have another
            world: shards that are there are not made again, whoever made them.
        progress: counts the samples of this process's shards.
        workers: processes that decode and render samples; 0 = threads of this one. Changes no byte.

    Returns:
        The manifest when all shards are there; None when some of other processes are missing.
    """
    if not 0 <= rank < world:
        raise UsageError(f"There is no process {rank} of {world}: ranks begin at 0.")
    plan = read_plan(folder)
    if (folder / MANIFEST_FILE).is_file():
        forget_facts(folder)  # a kill may have come between
        return read_manifest(folder)
    shards = _PlannedShards(plan, folder)
    mine = [number for number in range(_shard_count(plan)) if number % world == rank]
    total = sum(len(shards.indices(number)) for number in mine)
    done = 0

    def report(more: int = 1) -> None:
        nonlocal done
        done += more
        progress(done, total, "images")

    missing = []
    for number in mine:
        if shards.finished(number):
            report(len(shards.indices(number)))
        else:
            missing.append(number)
    preparation = Preparation(source, teachers, captioners, plan, shards.base)
    samples = prepared(preparation, chain.from_iterable(map(shards.indices, missing)), workers)
    with ThreadPoolExecutor(1) as writer, contextlib.closing(samples):
        writing: Future[None] | None = None
        for number in missing:
            its_own = zip(
                shards.indices(number), samples, strict=False
            )  # the numbers end first, and take no sample more
            rows, rejected = label_shard(its_own, teachers, plan, report, captioners=captioners)
            if writing is not None:
                writing.result()
            writing = writer.submit(shards.write, number, rows, rejected)
        if writing is not None:
            writing.result()
    return finish(folder)


def _shard_count(plan: Plan) -> int:
    return -(-plan.source.samples // plan.shard_size)


class _PlannedShards:
    """The shards of one plan: which samples each has, what is there of it already, and writing it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self._sha256 = plan_sha256(plan)
        self._base: tuple[int, dict[str, Row]] = (-1, {})

    def indices(self, number: int) -> range:
        """The source samples of a shard."""
        start = number * self.plan.shard_size
        return range(start, min(start + self.plan.shard_size, self.plan.source.samples))

    def finished(self, number: int) -> bool:
        """Whether the shard is there, whole and of this plan."""
        return is_finished(self._path(number), self._sha256)

    def _path(self, number: int) -> Path:
        return self.folder / shard_name(number, _shard_count(self.plan))

    def base(self, index: int) -> Mapping[str, Row]:
        """By key, the rows of the shard of a plan that this one extends, in which sample `index` may be; none in a new set."""
        number = index // self.plan.shard_size
        if self.plan.parents and self._base[0] != number:
            path = self._path(number)
            notes = read_notes(path)
            extended = notes is not None and notes.plan_sha256 in self.plan.parents
            self._base = (number, _rows(path, notes.samples, self.plan) if notes is not None and extended else {})
        return self._base[1]

    def write(self, number: int, rows: list[Row], rejected: list[Rejected]) -> None:
        """Write a shard and read it back. Raises DistillError when the disk is full, not writable or forgetful."""
        path = self._path(number)
        with disk_errors(self.folder):
            write_shard(path, self.plan, self._sha256, rows, rejected)
            whole = keep_facts(path, self._sha256)
        if not whole:
            raise DistillError(f"The shard {str(path)!r} cannot be read back. Check the disk, then call with --resume.")


def _rows(path: Path, samples: int, plan: Plan) -> dict[str, Row]:
    """The rows of a shard by key. They are views of the mapped file, which a rename over it leaves alone."""
    shard = Shards([path], [samples], lambda batch: StoredBatch(batch, plan.embed_dtype))
    rows = [batch.row(place) for batch, place in (shard.find(row) for row in range(len(shard)))]
    return {row.key: row for row in rows}


def plan_sha256(plan: Plan) -> str:
    """The hash of a plan, which every shard that follows it holds in its metadata."""
    return sha256_json(plan.model_dump(mode="json"))


def finish(folder: Path) -> Manifest | None:
    """Write the manifest of the set in `folder` when all its shards are there; None when they are not.

    Any number of processes may do so: they write the same bytes.
    """
    plan = read_plan(folder)
    sha256 = plan_sha256(plan)
    shards = _Summed()
    for path in shard_paths(folder, plan):
        found = finished_facts(path, sha256)
        if found is None:
            return None
        shards.add(found)
    with disk_errors(folder):
        facts = ShardTable.written(folder, shards.facts()) if len(shards) > LISTED_SHARDS else list(shards.facts())
        manifest = _manifest(plan, facts, shards)
        write_record(folder, manifest)
        forget_facts(folder)
    return manifest


class _Summed:
    """What the manifest says of all shards, without an object for each of them."""

    def __init__(self) -> None:
        self._facts: list[tuple[Any, ...]] = []
        self.samples = 0
        self.rejected: list[Rejected] = []
        self.reasons: Counter[str] = Counter()
        self.captions: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._facts)

    def add(self, shard: FinishedShard) -> None:
        self._facts.append(tuple(dict(shard.facts).values()))
        self.samples += shard.facts.samples
        self.rejected += shard.rejected[: REJECTED_LISTED - len(self.rejected)]
        self.reasons.update(reasons_of(shard.rejected))
        self.captions.update(shard.captions)

    def facts(self) -> Iterator[ShardFacts]:
        """Of each shard, in order."""
        names = list(ShardFacts.model_fields)
        return (ShardFacts(**dict(zip(names, values, strict=True))) for values in self._facts)


def shards_made(folder: Path) -> tuple[int, int]:
    """(finished, all) shards of the set that is being made in `folder`, by what is kept beside each finished one."""
    count = _shard_count(read_plan(folder))
    return min(count, sum(1 for _ in folder.glob(FACTS_GLOB))), count


def shard_paths(folder: Path, plan: Plan) -> Iterator[Path]:
    """Where the shards of a plan lie, in order."""
    count = _shard_count(plan)
    return (folder / shard_name(number, count) for number in range(count))


def _manifest(plan: Plan, facts: list[ShardFacts] | ShardTable, shards: _Summed) -> Manifest:
    if not shards.samples:
        reasons = "; ".join(f"{item.key}: {item.reason}" for item in shards.rejected[:3])
        raise DistillError(
            f"None of the {plan.source.samples} samples of {plan.source.location!r} could be used ({reasons}). "
            "Training needs images that decode, each with at least one caption."
        )
    return Manifest(
        **dict(plan),
        samples=shards.samples,
        captions=dict(sorted(shards.captions.items())),
        shards=facts,
        rejected=shards.rejected,
        rejected_reasons=most_first(shards.reasons),
        licence_summary=licence_summary(plan.source, plan.teachers, plan.captioners),
    )


def unfinished(folder: Path) -> Iterable[str]:
    """Names of the shards that the set in `folder` lacks."""
    plan = read_plan(folder)
    sha256 = plan_sha256(plan)
    for path in shard_paths(folder, plan):
        if not is_finished(path, sha256):
            yield path.name

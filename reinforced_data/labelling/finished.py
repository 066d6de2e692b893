"""Shards that are there: hashed by whoever made them, so that whoever finishes the set reads a small file of each and no shard.

Beside an unfinished set's shards lie files with their hash, size and counts; the manifest takes them over, and they are removed.
A shard without such a file, or whose file is of another plan or size, is opened and hashed.
"""

from collections.abc import Sequence
from pathlib import Path

from distill.core.atomic import read_json, sha256_file, write_json
from distill.core.errors import UsageError
from distill.core.strict import Strict, parse
from reinforced_data.store.manifest import Rejected
from reinforced_data.store.names import FACTS_GLOB, facts_name
from reinforced_data.store.shard_file import finished_shard
from reinforced_data.store.shards import ShardFacts


class FinishedShard(Strict):
    """A shard as the manifest counts it: its facts, captions by source, and the samples that were left out."""

    plan_sha256: str
    facts: ShardFacts
    captions: dict[str, int]
    rejected: Sequence[Rejected]


def keep_facts(path: Path, plan_sha256: str) -> bool:
    """Read a shard that was just written back, hash it and keep what was found; False where it is not whole."""
    found = _opened(path, plan_sha256)
    if found is not None:
        write_json(path.with_name(facts_name(path.name)), found.model_dump(mode="json"), shared=True)
    return found is not None


def is_finished(path: Path, plan_sha256: str) -> bool:
    """Whether a shard is there, whole and of this plan."""
    return _kept(path, plan_sha256) is not None or finished_shard(path, plan_sha256) is not None


def finished_facts(path: Path, plan_sha256: str) -> FinishedShard | None:
    """What the manifest counts of a shard; None where it must still be made."""
    return _kept(path, plan_sha256) or _opened(path, plan_sha256)


def forget_facts(folder: Path) -> None:
    """Remove what was kept of a set's shards, when its manifest has it all."""
    for file in folder.glob(FACTS_GLOB):
        file.unlink(missing_ok=True)


def _kept(path: Path, plan_sha256: str) -> FinishedShard | None:
    try:
        file = path.with_name(facts_name(path.name))
        found = parse(FinishedShard, read_json(file), str(file))
        fits = (found.plan_sha256, found.facts.size_bytes) == (plan_sha256, path.stat().st_size)
    except (OSError, ValueError, UsageError):
        return None
    return found if fits else None


def _opened(path: Path, plan_sha256: str) -> FinishedShard | None:
    notes = finished_shard(path, plan_sha256)
    if notes is None:
        return None
    facts = ShardFacts(
        file=path.name,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        samples=notes.samples,
        captions=sum(notes.captions.values()),
        rejected=len(notes.rejected),
    )
    return FinishedShard(plan_sha256=plan_sha256, facts=facts, captions=notes.captions, rejected=notes.rejected)

"""`open_output`: make a folder ready for a set: new, resumed, overwritten, or extended. Nothing is labelled here."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from distill.core.atomic import PARTIAL, fsync_dir, remove_leftovers, sha256_json
from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.core.existing import Existing
from reinforced_data.store.manifest import Plan, differences, read_plan, write_record
from reinforced_data.store.names import FACTS_GLOB, MANIFEST_FILE, PLAN_FILE, SHARD_GLOB, SHARD_TABLE


def open_output(folder: Path, plan: Plan, existing: Existing = Existing.REFUSE) -> Plan:
    """Make `folder` ready for a set that follows `plan`, write plan.json, and return the plan to follow.

    With RESUME that is the stored plan; with EXTEND it is `plan`, which names the stored one as its parent; OVERWRITE
    removes the set that is there. Leftovers of killed processes are removed. RESUME and EXTEND may begin a new folder.

    Raises:
        OutputExistsError: the folder is not empty and `existing` is REFUSE.
        UsageError: it holds other things than a set, or a set whose settings differ from the plan's; names them.
        DistillError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"The output {str(folder)!r} is a file. Give a folder, or a name that does not exist yet.")
    present = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    ours = PLAN_FILE in present or MANIFEST_FILE in present or all(name.startswith(PARTIAL) for name in present)
    if present and existing is Existing.REFUSE:
        raise OutputExistsError(
            f"The output {str(folder)!r} exists and is not empty. Call with --resume to go on with it, --overwrite to "
            "begin anew, or choose another name."
        )
    if not ours:
        raise UsageError(
            f"The folder {str(folder)!r} holds other files ({present[0]}, ...) and no reinforced set. Choose another."
        )
    with disk_errors(folder):
        if existing is Existing.OVERWRITE:
            _remove(folder)
        else:
            remove_leftovers(folder)
            if PLAN_FILE in present:
                return _continue(folder, plan, existing)
        folder.mkdir(parents=True, exist_ok=True)
        fsync_dir(folder.parent)
        write_record(folder, plan)
    return plan


def _continue(folder: Path, plan: Plan, existing: Existing) -> Plan:
    """The plan to follow in a folder that has one: the stored plan, or the one that extends it."""
    stored = read_plan(folder)
    differing = differences(stored, plan)
    if not differing:
        return stored
    if existing is not Existing.EXTEND:
        words = "; ".join(differing)
        raise UsageError(
            f"The set in {str(folder)!r} was begun with other settings, so it cannot be resumed: {words}. Call with the "
            "old settings, with --extend if only teachers, captioners or views were added, with --overwrite, or with "
            "another output."
        )
    refuse_other_changes(stored, plan, folder)
    longer = plan.model_copy(update={"parents": [*stored.parents, sha256_json(stored.model_dump(mode="json"))]})
    # The manifest goes first: a kill between the two leaves the old set unfinished, and --resume with its own settings
    # or --extend with the new ones goes on from there.
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    write_record(folder, longer)
    return longer


def refuse_other_changes(stored: Plan, plan: Plan, folder: Path) -> None:
    """Raise UsageError unless `plan` is `stored` with teachers, captioners or views added at the end."""
    same = {name: getattr(stored, name) for name in ("teachers", "captioners", "views_per_image")}
    kept = {
        "teachers": plan.teachers[: len(stored.teachers)],
        "captioners": plan.captioners[: len(stored.captioners)],
        "views_per_image": min(plan.views_per_image, stored.views_per_image),
    }
    other = differences(stored, plan.model_copy(update=same)) + differences(stored, stored.model_copy(update=kept))
    if other:
        raise UsageError(
            f"The set in {str(folder)!r} cannot be extended so: {'; '.join(other)}. Extending may only add: name the "
            "teachers and captioners that it has, in their order, then the new ones; ask for as many views or more."
        )


def _remove(folder: Path) -> None:
    """Remove a reinforced set, the plan last: a kill on the way leaves a folder that is still known to be ours."""
    names = [MANIFEST_FILE, *(file.name for file in folder.glob(SHARD_GLOB)), SHARD_TABLE, PLAN_FILE]
    names[1:1] = [file.name for pattern in (FACTS_GLOB, PARTIAL + "*") for file in folder.glob(pattern)]
    for name in names:
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of the output's disk into a DistillError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DistillError(
            f"The output {str(folder)!r} cannot be written ({error.strerror or error}). Make room or choose another "
            "place; finished shards are kept and --resume goes on from there."
        ) from error

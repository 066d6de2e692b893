"""`open_output`: make a folder ready for a set: new, resumed, overwritten, or extended. Nothing is labelled here."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from distill.core.atomic import PARTIAL, fsync_dir, remove_leftovers, sha256_json
from distill.core.errors import DistillError, OutputExistsError, UsageError
from reinforced_data.store.manifest import MANIFEST_FILE, PLAN_FILE, Plan, differences, read_plan, write_record
from reinforced_data.store.shard_file import SHARD_GLOB


def open_output(out: Path, plan: Plan, *, resume: bool = False, overwrite: bool = False, extend: bool = False) -> Plan:
    """Make `out` ready for `plan` and write plan.json; returns the plan to follow.

    On a resume that is the stored one. Leftovers of killed processes are removed.

    Raises OutputExistsError or UsageError as `write.reinforce` says.
    """
    if sum((resume, overwrite, extend)) > 1:
        raise UsageError(
            "Say one of --resume (go on), --extend (add to a finished set) and --overwrite (begin anew), not both."
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"The output {str(out)!r} is a file. Give a folder, or a name that does not exist yet.")
    present = sorted(file.name for file in out.iterdir()) if out.is_dir() else []
    ours = PLAN_FILE in present or MANIFEST_FILE in present or all(name.startswith(PARTIAL) for name in present)
    if present and not (resume or overwrite or extend):
        raise OutputExistsError(
            f"The output {str(out)!r} exists and is not empty. Call with --resume to go on with it, --overwrite to "
            "begin anew, or choose another name."
        )
    if not ours:
        raise UsageError(
            f"The folder {str(out)!r} holds other files ({present[0]}, ...) and no reinforced set. Choose another."
        )
    with disk_errors(out):
        if overwrite:
            _remove(out)
        else:
            remove_leftovers(out)
            if PLAN_FILE in present:
                return _go_on(out, plan, extend)
        out.mkdir(parents=True, exist_ok=True)
        fsync_dir(out.parent)
        write_record(out, plan)
    return plan


def _go_on(out: Path, plan: Plan, extend: bool) -> Plan:
    stored = read_plan(out)
    differing = differences(stored, plan)
    if not differing:
        return stored
    if not extend:
        words = "; ".join(differing)
        raise UsageError(
            f"The set in {str(out)!r} was begun with other settings, so it cannot be resumed: {words}. Call with the "
            "old settings, with --extend if only teachers, captioners or views were added, with --overwrite, or with "
            "another output."
        )
    refuse_other_changes(stored, plan, out)
    longer = plan.model_copy(update={"parents": [*stored.parents, sha256_json(stored.model_dump(mode="json"))]})
    # The manifest goes first: a kill between the two leaves the old set unfinished, and --resume with its own settings
    # or --extend with the new ones goes on from there.
    (out / MANIFEST_FILE).unlink(missing_ok=True)
    write_record(out, longer)
    return longer


def refuse_other_changes(stored: Plan, plan: Plan, out: Path) -> None:
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
            f"The set in {str(out)!r} cannot be extended so: {'; '.join(other)}. Extending may only add: name the "
            "teachers and captioners that it has, in their order, then the new ones; ask for as many views or more."
        )


def _remove(out: Path) -> None:
    """Remove a reinforced set, the plan last: a kill on the way leaves a folder that is still known to be ours."""
    names = [MANIFEST_FILE, *(file.name for file in out.glob(SHARD_GLOB)), PLAN_FILE]
    names[1:1] = [file.name for file in out.glob(PARTIAL + "*")]
    for name in names:
        (out / name).unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn an OSError of the output's disk into a DistillError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DistillError(
            f"The output {str(out)!r} cannot be written ({error.strerror or error}). Make room or choose another "
            "place; finished shards are kept and --resume goes on from there."
        ) from error

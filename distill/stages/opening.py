"""How a run folder is opened: refused when it exists, resumed when it is the same job, with recipe, versions and commit
inside. What lies where in it is in `distill.run_folder`.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.core.existing import Existing
from distill.core.folders.lock import LOCK_FILE, leave, refuse_busy, take
from distill.core.packages.versions import git_commit, versions
from distill.processes import this_place, wait_until
from distill.recipe import Recipe
from distill.recipe.kept import differing_keys, move_places, refuse_other_settings
from distill.run_folder import VERBS, RunFolder
from distill.stages.training.stops import MENDING, prepare_to_go_on, unfinished_stops

MINIMUM_FREE_BYTES = 200_000_000
# What may change until a training begins.
BATCHES = ("train.batch_size", "train.steps", "train.warmup_steps")


def begun_training(run: RunFolder) -> bool:
    """Whether any student of the run (or its heads) is trained, or has begun to be."""
    return any(
        place.exists() for arm in run.arms() for place in (arm.metrics, arm.checkpoints, arm.student, arm.teacher)
    )


def _made_the_set(key: str, recipe: Recipe) -> bool:
    """Whether a key of the train table decided what the reinforced set stores: scales are fitted for the batch."""
    return key == "train.batch_size" and bool(recipe.reinforce.calibrate)


def _keep_places(run: RunFolder, recipe: Recipe) -> None:
    """Where the data lies now, for what reads the run later."""
    resolved = run.read_resolved()
    if move_places(resolved["recipe"], recipe.model_dump(mode="json")):
        atomic.write_json(run.resolved, resolved)


def refuse_existing(run: RunFolder, existing: Existing) -> None:
    """Raise unless the run folder may be written to: it is new or empty, or the call said what to do with what is there.

    Raises:
        OutputExistsError: it holds something and the call said nothing of it.
        UsageError: it is a file, or would be overwritten and is not a run.
    """
    if run.path.is_file():
        raise UsageError(f"{str(run)!r} is a file; --out names a folder.")
    if not (run.path.is_dir() and any(child.name != LOCK_FILE for child in run.path.iterdir())):
        return
    if existing is Existing.OVERWRITE and not run.resolved.exists():
        raise UsageError(
            f"{str(run)!r} is not a run of distill (no {run.resolved.name} inside), so --overwrite will not delete it."
        )
    if existing is Existing.REFUSE and not _may_begin_anew(run):
        raise OutputExistsError(
            f"The output {str(run)!r} exists. Continue that run with --resume, replace it with --overwrite, or give another --out."
        )


def taken_for(run: RunFolder, existing: Existing, recipe: Recipe) -> Existing:
    """The answer that a call means, seen what lies in its folder.

    One that would go on by other settings, where nothing was finished, is a new call: nothing is kept that it could contradict,
    the values that were filled in for the old settings among it.

    Args:
        recipe: of the call, before anything is filled in.
    """
    if existing is not Existing.RESUME or not run.resolved.exists() or not _may_begin_anew(run):
        return existing
    refused, _ = _other_keys(run, run.said_recipe().model_dump(mode="json"), recipe)
    return Existing.REFUSE if refused else existing


def _other_keys(run: RunFolder, before: dict[str, Any], recipe: Recipe) -> tuple[list[str], list[str]]:
    """The keys by which a call differs from what the run was started with: those that a resume refuses, and those it takes."""
    keys = differing_keys(before, recipe.model_dump(mode="json"))
    mended = [key for key in keys if key in MENDING] if unfinished_stops(run) else []
    if not begun_training(run):  # filters may have left fewer samples than a batch takes
        mended += [key for key in keys if key in BATCHES and not _made_the_set(key, recipe)]
    return [key for key in keys if key not in mended], mended


def _may_begin_anew(run: RunFolder) -> bool:
    """Whether a call that is not the one of before may have the folder: that one failed before anything was finished.

    Of several processes none may, since another one may be at work by the old recipe.
    """
    return this_place().world == 1 and run.begun_in_vain()


def _empty(run: RunFolder) -> None:
    """Delete everything in the run folder but the lock."""
    for child in run.path.iterdir():
        if child.name != LOCK_FILE:
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()


def open_run(
    run: RunFolder, recipe: Recipe, existing: Existing, filled: Mapping[str, str] | None = None, verb: str = "run"
) -> None:
    """Make the run folder ready for `recipe`: new, the continuation of the same job, or (EXTEND) a job that adds to it.

    Args:
        filled: dotted key -> reason of the values that nobody set, kept in resolved.json.
        verb: of the command line; the widest that worked in the folder is kept, and goes on with the run.

    The recipe that extends a run is not kept here, but by `keep_recipe` when the set has turned out to take it.

    Raises:
        OutputExistsError: it exists, and the call said nothing of it.
        UsageError: the run to resume was started with other settings (names them).
        DistillError: not enough free space to begin.
    """
    refuse_existing(run, existing)
    if run.path.is_dir() and (
        existing is Existing.OVERWRITE or (existing is Existing.REFUSE and run.resolved.exists())
    ):
        _empty(run)
    elif run.resolved.exists() and existing is not Existing.EXTEND:
        before = run.read_resolved()["recipe"]
        refused, mended = _other_keys(run, before, recipe)
        if refused and not _may_begin_anew(run):
            refuse_other_settings(run.path, before, refused, f"give another --out.{_extend_hint(refused)}")
        if refused:
            _empty(run)
        else:
            _keep_places(run, recipe)
            if mended:
                prepare_to_go_on(run)
    run.path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(run.path).free
    if free < MINIMUM_FREE_BYTES:
        raise DistillError(
            f"Only {free / 1e6:.0f} MB are free where {str(run)!r} lies; a run needs at least {MINIMUM_FREE_BYTES / 1e6:.0f} MB. "
            "Free some space or give another --out."
        )
    kept = run.read_resolved() if run.resolved.exists() else None
    widest = max(run.verb(), verb, key=("", *VERBS).index)
    if kept is None or (
        existing is Existing.RESUME and (kept["recipe"], kept.get("verb")) != (recipe.model_dump(mode="json"), widest)
    ):
        keep_recipe(run, recipe, filled, widest)  # what was free to change is now as this call says


def share_run(
    run: RunFolder, recipe: Recipe, existing: Existing, filled: Mapping[str, str] | None = None, verb: str = "run"
) -> None:
    """`open_run` for the processes of one launcher: the first opens, the others go on when it has.

    The first holds the folder until the verb ends (`verbs.endings.going_on`); no other call can open it meanwhile.

    Raises what `open_run` raises, UsageError for OVERWRITE with several, and DistillError when the first does not open it.
    """
    place = this_place()
    if existing is Existing.OVERWRITE and place.world > 1:
        raise UsageError(
            "--overwrite and several processes do not go together: one might begin while another still deletes. Remove the "
            "old run with one process first, or give another --out."
        )
    if place.rank == 0:
        _hold_and_open(run, recipe, existing, filled, verb)
        return
    values = recipe.model_dump(mode="json")

    def opened() -> bool:
        return run.resolved.exists() and not differing_keys(run.read_resolved()["recipe"], values)

    wait_until(
        opened if existing is not Existing.EXTEND else run.resolved.exists, f"the first process to open {str(run)!r}"
    )


def _hold_and_open(
    run: RunFolder, recipe: Recipe, existing: Existing, filled: Mapping[str, str] | None, verb: str
) -> None:
    """Hold first, so that of two calls at once only one writes its recipe; nothing is left when it cannot be opened."""
    refuse_busy(run.path)
    refuse_existing(run, existing)
    run.path.mkdir(parents=True, exist_ok=True)
    take(run.path, f"distill {verb}")
    try:
        open_run(run, recipe, existing, filled, verb)
    except BaseException:
        leave(run.path)
        with contextlib.suppress(OSError):  # it holds something
            run.path.rmdir()
        raise


@contextlib.contextmanager
def discard_unless(run: RunFolder, begun: Path, *, first: bool = True) -> Iterator[None]:
    """When the work inside fails before the file `begun` was there, forget the run: the call may be mended and
    repeated without --overwrite. Only the first process does so."""
    try:
        yield
    except DistillError:
        if first and not begun.exists() and run.begun_in_vain():
            leave(run.path)
            _empty(run)
            with contextlib.suppress(OSError):  # another call has begun there
                run.path.rmdir()
        raise


def _extend_hint(keys: list[str]) -> str:
    grows = set(keys) <= {"teachers", "captioners", "reinforce.views_per_image"}
    return " To add teachers, captioners or views to a finished set: distill reinforce --extend." if grows else ""


def keep_recipe(
    run: RunFolder, recipe: Recipe, filled: Mapping[str, str] | None = None, verb: str | None = None
) -> None:
    """Write recipe.toml and resolved.json: what the run is made by, which a resume reads.

    `filled`, `verb`: as of `open_run`; None keeps what resolved.json says already.
    """
    import tomli_w

    values = recipe.model_dump(mode="json")
    atomic.write_text(run.recipe, tomli_w.dumps(_without_none(values)))
    before = run.read_resolved() if run.resolved.exists() else {}
    record = {
        "verb": before.get("verb", "run") if verb is None else verb,
        "recipe": values,
        "filled": dict(before.get("filled", {}) if filled is None else filled),
        "versions": versions(),
        "commit": git_commit(),
    }
    atomic.write_json(run.resolved, record)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value

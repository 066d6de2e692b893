"""`distill export`: deployable files of any CLIP, parity proven on the files."""

import contextlib
import shlex
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core.errors import DistillError, UsageError
from distill.core.existing import Existing
from distill.core.folders.lock import refuse_busy
from distill.core.strict import Settings
from distill.processes import this_place
from distill.recipe import Recipe
from distill.recipe.kept import refuse_other_settings
from distill.run_folder import RunFolder
from distill.verbs.asked import WITHOUT, Asked, keep_asked, read_asked, recipe_by, refuse_others
from distill.verbs.endings import another_threshold, ending_well
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import ExportResult
from export.artifacts.folder import read_artifacts
from reinforced_data.source import opening_once


@opening_once()
def export(
    model: AnyPath | None = None,
    recipe: RecipeLike = None,
    *,
    target: OneOrMore = (),
    precision: OneOrMore = (),
    max_drop: float | None = None,
    max_mb: float | None = None,
    classes: AnyPath | None = None,
    template: OneOrMore = (),
    batch: int | None = None,
    data: AnyPath | None = None,
    out: AnyPath | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Settings = (),
    console: Console | None = None,
) -> ExportResult:
    """Export a model to each target, and check every file against it.

    Args:
        model: a run (or the student/ inside it), whose files go into run/export; or any other CLIP: an open_clip folder
            ("local-dir:" before it or not), "open_clip:MODEL/TAG", "open_clip:MODEL@CHECKPOINT", a registered teacher; or a
            timm image model alone: "timm:NAME@WEIGHTS", "timm:FOLDER". With `resume` alone, also the folder that gets the files.
        recipe: its data, eval and export tables are read; None = the run's own, or the default's.
        target: one or several, with a precision behind ("onnx-w8a8") or without; none = the recipe's.
        precision: one or several, for the targets that name none; none = each one's usual one; "auto" = the smallest that
            loses no more than it may.
        max_drop: with "auto": how many points of R@1 and top-1 a file may lose.
        max_mb: with "auto": megabytes that both towers may take; the most exact that fits is taken.
        classes: a text file with a label per line: each target then gets a classifier too, a file from a picture to the labels'
            probabilities.
        template: one or several sentences with {} in them, which a label is put into; none = "a photo of a {}.".
        batch: how many inputs every file takes at a call, always as many; None = the recipe's, usually one.
        data: where the images and captions for parity and calibration lie; None = the run's, or the embedded set.
        out: for another model than a run's: the folder that gets it as student/ and its files as export/; None =
            exports/<name>.
        resume: go on with what the last export there was asked; what else is said must agree with it, see docs/export.md.
        overwrite: export the targets again that are there; a file is replaced when its successor is whole and passed.
        settings: as of `distill.run`.

    Raises:
        UsageError: no such model, unknown target or precision, labels or templates that make no classifier.
        DistillError: parity below the bar, missing weights, or a target's packages are missing.
    """
    console = console or Console()
    existing = Existing.of(resume=resume, overwrite=overwrite)
    folder, name = _place(model, out, resume)
    before = read_asked(folder.asked_export) if existing is Existing.RESUME else None
    words = {"target": target, "precision": precision, "max_drop": max_drop, "max_mb": max_mb, "classes": classes,
             "template": template, "batch": batch}  # fmt: skip
    job = _job(folder, before, recipe, data, settings, words)
    taken = _named(folder, before, name)
    refuse_others(folder.path, before, job, finished=bool(folder.exports_kept()))
    _check(job)
    if this_place().rank == 0:  # of a launcher's processes: exporting is one process's work
        _export(job, folder, taken, console, resumes=before is not None, overwrite=overwrite)
    artifacts = [artifact.to_json() for place in folder.exported() for artifact in read_artifacts(place)]
    left_out = {found.folder.name: found.wrong for found in folder.exports() if found.wrong}
    return ExportResult(folder.export, artifacts, left_out)


def _place(model: AnyPath | None, out: AnyPath | None, resume: bool) -> tuple[RunFolder, str | None]:
    """The folder that gets the files, and the model that is taken into it first; None = the student that lies there.

    Raises UsageError where the two do not go together, or nothing is named.
    """
    from distill.stages.exporting.any_model import default_out, model_name, run_of

    if model is None:
        if out is None or not resume:
            raise UsageError(
                "Which model? Name a run, or any CLIP: distill export runs/mine. To go on with an export that was stopped: "
                "distill export OUT --resume."
            )
        there = RunFolder(out)
        if run_of(model_name(str(out))) is None and not there.asked_export.exists():
            raise UsageError(
                f"There is no export in {str(there)!r} to go on with: looked for {there.asked_export.name} and "
                f"{there.student.name}/ in it. To begin one, name the model: distill export MODEL --out {there}."
            )
        model, out = out, None
    name = model_name(str(model))
    run = run_of(name)
    if run is None and out is None and resume and RunFolder(name).asked_export.exists():
        run = RunFolder(name)  # stopped before its model was there
    if run is None:
        if RunFolder(name).resolved.exists():
            raise UsageError(
                f"There is no {str(RunFolder(name).student)!r}: this run has trained no student yet. Finish it first."
            )
        return RunFolder(default_out(name) if out is None else out), name
    if out is not None and RunFolder(out).path.absolute() != run.path.absolute():
        raise UsageError(f"{name!r} is a run, whose files go into {str(run.export)!r}. Leave --out away.")
    return run, None


def _job(
    folder: RunFolder,
    before: Asked | None,
    recipe: RecipeLike,
    data: AnyPath | None,
    settings: Settings,
    words: dict[str, Any],
) -> Recipe:
    from export.target import chosen_targets

    own = folder.read_recipe() if before is None and recipe is None else None
    job = recipe_by(before, recipe, own, settings, words)
    # Where scales are learned, the data's training part teaches and its evaluation part judges; else all of it may judge.
    learns = any(one.learns for one in chosen_targets(job.export.targets, job.export.precisions))
    return recipe_of(job, (), **{"data" if learns else "eval_data": data})


def _named(folder: RunFolder, before: Asked | None, name: str | None) -> tuple[str, str] | None:
    """The model that the folder gets: as it was named, and by a name that means it from everywhere; None = its own student.

    Raises UsageError where a call goes on with another model than was begun.
    """
    from distill.stages.exporting.any_model import absolute_model

    named = None if name is None else (name, absolute_model(name))
    if before is None or before.model is None:
        return named
    if named is not None and named[1] != before.model[1] and folder.exports_kept():
        refuse_other_settings(folder.path, {"model": before.model[0]}, ["model"], WITHOUT)
    return named or before.model


def _check(job: Recipe) -> None:
    """Find what can be wrong about the call before anything is loaded or written."""
    from distill.stages.evaluate import open_evaluation
    from distill.stages.exporting.stage import classes_of
    from export.target import chosen_targets

    classes_of(job.export)
    targets = chosen_targets(job.export.targets, job.export.precisions)
    for one in targets:
        one.require_packages()
        one.configured(job.export)
    if targets:
        open_evaluation(job)


def _export(
    job: Recipe, folder: RunFolder, taken: tuple[str, str] | None, console: Console, *, resumes: bool, overwrite: bool
) -> None:
    """Take the model in where it is from elsewhere, then export it; what was asked is kept before."""
    from distill.stages.exporting.any_model import card_origin, take_in
    from distill.stages.exporting.stage import export_stage

    refuse_busy(folder.export)
    kept = read_asked(folder.asked_export)
    # Another model may take the place of one that was taken in and nothing was made of.
    in_vain = kept is not None and kept.model is not None and not folder.resolved.exists() and not folder.exports_kept()
    model = kept.model if taken is None and kept is not None else taken
    made = [place for place in (folder.path, *folder.path.parents) if not place.exists()]
    keep_asked(folder.asked_export, job, model)
    command = shlex.join(["distill", "export", str(folder), "--resume"])
    with ending_well(folder.exports_kept, lambda: f"Go on by: {command}", str(folder.export)):
        if taken is not None and not (resumes and card_origin(folder.student) == taken[0]):
            try:
                with console.stage("load the model"):
                    take_in(taken[1] if resumes else taken[0], folder, overwrite=overwrite or in_vain, origin=taken[0])
            except DistillError:
                _forget(folder, kept, made)
                raise
        try:
            export_stage(job, folder, console, again=overwrite)
        except DistillError as error:
            if type(error) is not DistillError:  # of a wrong call, a disk, another process: it says what to do
                raise
            raise DistillError(f"{error}\n{another_threshold(command)}") from error


def _forget(folder: RunFolder, before: Asked | None, made: list[Path]) -> None:
    """Keep what was asked before a call whose model could not be taken in; nothing stays where there was nothing.

    `made`: folders that were not there, the innermost first.
    """
    if before is not None:
        keep_asked(folder.asked_export, before.recipe, before.model)
        return
    folder.asked_export.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # one holds something
        for place in made:
            place.rmdir()

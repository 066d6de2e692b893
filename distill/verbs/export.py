"""`distill export`: deployable files of any CLIP, parity proven on the files."""

from distill.console import Console
from distill.core.errors import UsageError
from distill.core.strict import Settings
from distill.processes import this_place
from distill.run_folder import RunFolder
from distill.verbs.endings import ending_well
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import ExportResult
from reinforced_data.source import opening_once


@opening_once()
def export(
    model: AnyPath,
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
    overwrite: bool = False,
    settings: Settings = (),
    console: Console | None = None,
) -> ExportResult:
    """Export a model to each target, and check every file against it.

    Args:
        model: a run (or the student/ inside it), whose files go into run/export; or any other CLIP: an open_clip folder
            ("local-dir:" before it or not), "open_clip:MODEL/TAG", "open_clip:MODEL@CHECKPOINT", a registered teacher; or a
            timm image model alone: "timm:NAME@WEIGHTS", "timm:FOLDER".
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
        overwrite: export the targets again that are there; a file is replaced when its successor is whole and passed.
        settings: as of `distill.run`.

    Raises:
        UsageError: no such model, unknown target or precision, labels or templates that make no classifier.
        DistillError: parity below the bar, missing weights, or a target's packages are missing.
    """
    from distill.stages.evaluate import open_evaluation
    from distill.stages.exporting.any_model import default_out, model_name, run_of, take_in
    from distill.stages.exporting.stage import classes_of, export_stage
    from export.artifacts.folder import read_artifacts
    from export.target import chosen_targets

    name, console = model_name(str(model)), console or Console()
    run = run_of(name)
    folder = run or RunFolder(default_out(name) if out is None else out)
    made_by = folder.read_recipe() if recipe is None else recipe
    flags = {"max_drop": max_drop, "max_mb": max_mb, "classes": classes, "template": template, "batch": batch}
    job = recipe_of(made_by, settings, target=target, precision=precision, **flags)
    targets = chosen_targets(job.export.targets, job.export.precisions)
    # Where scales are learned, the data's training part teaches and its evaluation part judges; else all of it may judge.
    role = "data" if any(one.learns for one in targets) else "eval_data"
    job = recipe_of(job, (), **{role: data})
    if run is None and RunFolder(name).resolved.exists():
        raise UsageError(
            f"There is no {str(RunFolder(name).student)!r}: this run has trained no student yet. Finish it first."
        )
    if run is not None and out is not None:
        raise UsageError(f"{name!r} is a run, whose files go into {str(run.export)!r}. Leave --out away.")
    classes_of(job.export)
    for one in targets:  # before anything is loaded
        one.require_packages()
        one.configured(job.export)
    if targets:
        open_evaluation(job)
    if this_place().rank == 0:  # of a launcher's processes: exporting is one process's work
        with ending_well(folder.exports_kept, place=str(folder.export)):
            if run is None:
                with console.stage("load the model"):
                    take_in(name, folder, overwrite=overwrite)
            export_stage(job, folder, console, again=overwrite)
    artifacts = [artifact.to_json() for place in folder.exported() for artifact in read_artifacts(place)]
    left_out = {found.folder.name: found.wrong for found in folder.exports() if found.wrong}
    return ExportResult(folder.export, artifacts, left_out)

"""`distill export`: deployable files of a trained student, parity proven on the files."""

from distill.console import Console
from distill.core.errors import UsageError
from distill.core.strict import Settings
from distill.processes import this_place
from distill.run_folder import RunFolder
from distill.verbs.endings import ending_well, exported_in
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import ExportResult


def export(
    run: AnyPath,
    recipe: RecipeLike = None,
    *,
    target: OneOrMore = (),
    precision: OneOrMore = (),
    overwrite: bool = False,
    settings: Settings = (),
    console: Console | None = None,
) -> ExportResult:
    """Export the student of the run folder `run` into run/export.

    Args:
        run: a folder with student/ inside.
        recipe: its data, eval and export tables are read; None = the run's own, or the default's.
        target: one or several, with a precision behind ("onnx-w8a8") or without; none = the recipe's.
        precision: one or several, for the targets that name none; none = each one's usual one.
        overwrite: export the targets again that are there; a file is replaced when its successor is whole and passed.
        settings: as of `distill.run`.

    Raises:
        UsageError: no student there, unknown target or precision.
        DistillError: parity below export.min_cosine, or a target's packages are missing.
    """
    from distill.stages.export import export_stage
    from export.artifact import read_artifacts

    folder = RunFolder(run)
    job = recipe_of(folder.read_recipe() if recipe is None else recipe, settings, target=target, precision=precision)
    if not folder.student.is_dir():
        raise UsageError(f"There is no {str(folder.student)!r}. Give the folder of a run that has trained a student.")
    if this_place().rank == 0:  # of a launcher's processes: exporting is one process's work
        with ending_well(lambda: exported_in(folder), place=str(folder.export)):
            export_stage(job, folder, console or Console(), again=overwrite)
    artifacts = [artifact.to_json() for place in folder.exported() for artifact in read_artifacts(place)]
    left_out = {found.folder.name: found.wrong for found in folder.exports() if found.wrong}
    return ExportResult(folder.export, artifacts, left_out)

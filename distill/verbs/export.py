"""`distill export`: deployable files of a trained student, parity proven on the files."""

import shutil

from distill.console import Console
from distill.core.errors import UsageError
from distill.core.strict import Settings
from distill.processes import this_place
from distill.run_folder import RunFolder
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import ExportResult


def export(
    run: AnyPath,
    recipe: RecipeLike = None,
    *,
    target: OneOrMore = (),
    overwrite: bool = False,
    settings: Settings = (),
    console: Console | None = None,
) -> ExportResult:
    """Export the student of the run folder `run` into run/export.

    Args:
        run: a folder with student/ inside.
        recipe: its data, eval and export tables are read; None = the run's own, or the default's.
        target: one or several; none = the recipe's.
        overwrite: export again what is there.
        settings: as of `distill.run`.

    Raises:
        UsageError: no student there, unknown target.
        DistillError: parity below export.min_cosine, or a target's packages are missing.
    """
    from distill.stages.export import export_stage
    from export.artifact import read_artifacts

    folder = RunFolder(run)
    job = recipe_of(folder.read_recipe() if recipe is None else recipe, settings, target=target)
    if not folder.student.is_dir():
        raise UsageError(f"There is no {str(folder.student)!r}. Give the folder of a run that has trained a student.")
    if overwrite:
        shutil.rmtree(folder.export, ignore_errors=True)
    if this_place().rank == 0:  # of a launcher's processes: exporting is one process's work
        export_stage(job, folder, console or Console())
    artifacts = [artifact.to_json() for place in folder.exported() for artifact in read_artifacts(place)]
    return ExportResult(folder.export, artifacts)

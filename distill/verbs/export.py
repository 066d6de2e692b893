"""`distill export`: deployable files of a trained student, parity proven on the files."""

from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.recipe import Recipe


def export(
    run: Path, recipe: Recipe | None = None, *, overwrite: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Export the student of the run folder `run` into run/export. Returns the artifacts' facts.

    Args:
        run: a folder with student/ inside.
        recipe: its data, eval and export tables are read; None = the run's own, or the default's.
        overwrite: export again what is there.

    Raises:
        UsageError: no student there, unknown target.
        DistillError: parity below export.min_cosine, or a target's packages are missing.
    """
    import shutil

    from distill.stages.export import export_stage

    recipe, console = recipe or run_recipe(run), console or Console()
    if not (run / "student").is_dir():
        raise UsageError(f"There is no {str(run / 'student')!r}. Give the folder of a run that has trained a student.")
    if overwrite:
        shutil.rmtree(run / "export", ignore_errors=True)
    export_stage(recipe, run, console)
    files = sorted((run / "export").glob("*/artifact.json"))
    return {"out": str(run / "export"), "artifacts": [item for file in files for item in atomic.read_json(file)]}


def run_recipe(run: Path) -> Recipe:
    """The recipe that the run folder was made by, or the default where there is none."""
    file = run / "resolved.json"
    return Recipe.model_validate_json(_recipe_json(file)) if file.exists() else Recipe()


def _recipe_json(file: Path) -> str:
    import json

    return json.dumps(atomic.read_json(file)["recipe"])

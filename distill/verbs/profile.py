"""`distill profile`: latency of exported files on this host and on attached phones."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core.errors import UsageError
from distill.recipe import Recipe


def profile(path: Path, recipe: Recipe | None = None, *, console: Console | None = None) -> dict[str, Any]:
    """Measure every exported file of a run folder (or one export folder). Returns a list of profiles, each with its source.

    Args:
        path: a run folder, or one run/export/<target>-<precision> folder.
        recipe: its profile table is read.

    Raises:
        UsageError: there is nothing exported there.
    """
    from distill.stages.profile import asked_devices
    from export.profile import profile as measure

    recipe, console = recipe or Recipe(), console or Console()
    single = (path / "artifact.json").exists()
    run = path.parent.parent if single else path
    folders = [path] if single else sorted(file.parent for file in (path / "export").glob("*/artifact.json"))
    if not folders:
        raise UsageError(
            f"Nothing is exported in {str(path)!r}. Give a run folder after distill export, or one export folder."
        )
    settings = recipe.profile
    with console.stage("profile"):
        found = measure(
            folders,
            run / "student",
            devices=asked_devices(settings),
            threads=settings.threads,
            runs=settings.runs,
            warmup_runs=settings.warmup_runs,
            rounds=settings.rounds,
            progress=console.say,
        )
    return {"profiles": [asdict(item) for item in found]}

"""`distill profile`: latency of exported files on this host and on attached phones."""

from dataclasses import asdict
from pathlib import Path

from distill.console import Console
from distill.core.errors import UsageError
from distill.core.strict import Settings
from distill.run_folder import RunFolder
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import ProfileResult


def profile(
    folder: AnyPath,
    recipe: RecipeLike = None,
    *,
    device: OneOrMore = (),
    settings: Settings = (),
    console: Console | None = None,
) -> ProfileResult:
    """Measure every exported file of a run folder (or one export folder); each profile has its source.

    Args:
        folder: a run folder, or one run/export/<target>-<precision> folder.
        recipe: its profile table is read.
        device: one or several; none = every kind, the absent ones with the reason.
        settings: as of `distill.run`.

    Raises:
        UsageError: there is nothing exported there, or it failed parity, was edited, or is of another student.
    """
    from export.artifact import ARTIFACT_FILE
    from export.profile import profile as measure

    job, console, path = recipe_of(recipe, settings, device=device), console or Console(), Path(folder)
    single = (path / ARTIFACT_FILE).exists()
    run = RunFolder(path.parent.parent if single else path)
    folders = [path] if single else run.exported()
    for known in run.exports() if single and run.student.is_dir() else ():
        if known.folder == path and known.wrong:
            raise UsageError(f"{str(path)!r} is not timed: {known.wrong}")
    if not folders:
        raise UsageError(
            f"Nothing is exported in {str(path)!r}. Give a run folder after distill export, or one export folder."
        )
    with console.stage("profile"):
        found = measure(folders, run.student, job.profile, progress=lambda done, total, note: console.say(note))
    return ProfileResult([asdict(item) for item in found])

"""`distill profile`: latency of exported files here and on attached phones, and of any model on phones that are not here."""

import shlex
from dataclasses import asdict
from pathlib import Path

from distill.console import Console
from distill.core.errors import DistillError, UsageError
from distill.core.folders.lock import refuse_busy
from distill.core.strict import Settings
from distill.run_folder import RunFolder
from distill.verbs.asked import keep_asked, read_asked, recipe_by, refuse_others
from distill.verbs.endings import ending_well
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike
from distill.verbs.results import ProfileResult
from export.settings import ProfileSettings


def profile(
    folder: AnyPath,
    recipe: RecipeLike = None,
    *,
    device: OneOrMore = (),
    runner: OneOrMore = (),
    resume: bool = False,
    lan: bool = False,
    port: int | None = None,
    settings: Settings = (),
    console: Console | None = None,
) -> ProfileResult:
    """Measure every exported file of a run folder (or one export folder), or predict both towers of any model for phones by name.

    Args:
        folder: a run folder, or one run/export/<target>-<precision> folder, or a copy of one or of all of them. For phones that
            are not attached, also what `export` takes (an open_clip folder, "open_clip:MODEL/TAG", a registered teacher or
            student), or an architecture ("fastvit_mci2", "12x512@77").
        recipe: its profile table is read.
        device: one or several; none = every kind, the absent ones with the reason. A phone's or chip's name ("iphone-15",
            "galaxy-s24") of `distill list devices` gives predictions from published figures, each with interval and source.
        runner: paths of vendors' programs that time files on phones; the names of `distill doctor`.
        resume: go on with what the last call there was asked, over which the others are laid; what a phone has timed before, of the
            same files by the same protocol, is not timed again.
        lan: with the device "web", other devices of this network may open the page; else this computer alone.
        port: of that page; None = any free one.
        settings: as of `distill.run`.

    Raises:
        UsageError: there is nothing exported there, or it failed parity, was edited, or is of another student; no such device.
        DistillError: a device that is named cannot be timed now; nothing was timed then.
    """
    from distill.stages.latency.phones import calibrated_here, predicted, split_devices
    from export.artifacts.folder import read_artifacts, student_of
    from export.latency.measure import profile as measure

    console, place = console or Console(), RunFolder(folder)
    before = read_asked(place.asked_profile) if resume else None
    words = {"device": device, "runner": runner, "lan": lan, "port": port}
    job = recipe_by(before, recipe, None, settings, words)
    refuse_others(place.path, before, job, finished=True)
    here, phones = split_devices(job.profile)
    rows = [asdict(row) for row in predicted(str(folder), phones)] if phones else []
    if phones and not here:
        return ProfileResult(rows)
    try:
        folders, student = _found(Path(folder).expanduser())
    except UsageError:
        if calibrated_here(here):
            return ProfileResult([asdict(row) for row in predicted(str(folder), here)] + rows)
        raise
    _refuse_absent(here, job.profile)
    there = all(student_of(read_artifacts(place), student) for place in folders)
    if not there:
        console.say(
            f"Eager rows are left out: the student that the files were made from is not there ({str(student)!r})."
        )
    for beside in {found.absolute().parent for found in folders}:
        refuse_busy(beside)
    keep_asked(place.asked_profile, job)
    command = f"Go on by: {shlex.join(['distill', 'profile', str(folder), '--resume'])}"
    with ending_well(go_on=lambda: command, place=str(folder)), console.stage("profile"):
        found = measure(
            folders,
            student if there else None,
            job.profile.model_copy(update={"devices": tuple(here)}),
            resume=resume,
            progress=lambda done, total, note: console.say(note),
        )
    return ProfileResult([asdict(item) for item in found] + rows)


def _refuse_absent(named: list[str], settings: ProfileSettings) -> None:
    """Raise DistillError where a device that was asked for by name cannot be timed now: an hour later it would be no better."""
    from export.device import list_devices

    known = {info.name: info for info in list_devices(settings)}
    for name in named:
        info = known.get(name)
        if info is None or not info.ready:
            missing = "it is not attached" if info is None else info.missing
            others = " Leave it out to time the others." if len(named) > 1 else ""
            raise DistillError(
                f"The device {name!r} cannot be timed: {missing.rstrip('.')}. Nothing was timed.{others} What is attached: distill "
                f"devices. A phone that is not here is predicted by its name: distill list devices."
            )


def _found(path: Path) -> tuple[list[Path], Path]:
    """The exported folders that `path` means (a run's, those in a copied export/, or itself), and where their student lies.

    Raises UsageError where there is none, or the one that is named is not good.
    """
    from export.artifacts.folder import ARTIFACT_FILE, examine_alone

    if (path / ARTIFACT_FILE).exists():
        run = RunFolder(path.absolute().parent.parent)
        in_run = {known.folder: known for known in run.exports()} if run.student.is_dir() else {}
        examined = in_run.get(path.absolute()) or examine_alone(path)
        if examined.wrong:
            raise UsageError(f"{str(path)!r} is not timed: {examined.wrong}")
        return [path], run.student
    run = RunFolder(path)
    if folders := run.exported():
        return folders, run.student
    copied = sorted(file.parent for root in (path, run.export) for file in root.glob(f"*/{ARTIFACT_FILE}"))
    if not run.student.is_dir() and (folders := [place for place in copied if not examine_alone(place).wrong]):
        return folders, run.student
    raise UsageError(
        f"Nothing is exported in {str(path)!r}. Give a run folder after distill export, or one export folder."
    )

"""`distill report`: report.md and report.html of a run folder, from the files in it."""

from distill.console import Console
from distill.run_folder import RunFolder
from distill.verbs.flags import AnyPath
from distill.verbs.results import RunResult


def report(run: AnyPath, *, console: Console | None = None) -> RunResult:
    """Write both reports of the run folder `run` anew.

    Raises UsageError when it is not a run, DistillError when it has not been evaluated yet.
    """
    from distill.reporting.facts import read_run
    from distill.reporting.write import write_reports

    folder = RunFolder(run)
    with (console or Console()).stage("report"):
        facts = read_run(folder)
        write_reports(folder, facts)
    return RunResult(folder.path, folder.student, facts["table"], facts)

"""`distill report`: report.md and report.html of a run folder, from the files in it."""

from pathlib import Path
from typing import Any

from distill.console import Console


def report(out: Path, *, console: Console | None = None) -> dict[str, Any]:
    """Write both reports of the run in `out` anew. Returns the facts they show, and "out".

    Raises UsageError when `out` is not a run, DistillError when it has not been evaluated yet.
    """
    from distill.reporting.facts import read_run
    from distill.reporting.write import write_reports

    console = console or Console()
    with console.stage("report"):
        facts = read_run(out)
        write_reports(out, facts)
    return facts

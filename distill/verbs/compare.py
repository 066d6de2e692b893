"""`distill compare`: finished runs side by side."""

from collections.abc import Sequence

from distill.core.errors import UsageError
from distill.run_folder import RunFolder
from distill.verbs.flags import AnyPath
from distill.verbs.results import CompareResult


def compare(runs: Sequence[AnyPath]) -> CompareResult:
    """One row per run and model: accuracy, size, latency; with a warning where the runs were judged on different data.

    Latencies that were not measured alike (machine, system, versions of runtimes, protocol) are left out, and what differs is said.

    Raises UsageError for fewer than two folders, or one that is not a run.
    """
    from distill.reporting.facts import read_run
    from distill.reporting.likeness import LATENCIES, differences

    if len(runs) < 2:
        raise UsageError("distill compare needs at least two run folders.")
    facts = [read_run(RunFolder(path)) for path in runs]
    rows = [{"run": item["out"], **row} for item in facts for row in item["table"]]
    judged = {str(item["judged_on"]) for item in facts}
    warnings = [] if len(judged) == 1 else ["The runs were judged on different data: their accuracies do not compare."]
    if unlike := differences(facts):
        warnings.append(f"Latencies are left out: they were not measured alike. {'; '.join(unlike)}.")
        rows = [{**row, **dict.fromkeys(LATENCIES)} for row in rows]
    if any(item["rehearsal"] for item in facts):
        warnings.append("At least one run is a rehearsal, which says nothing of accuracy.")
    return CompareResult(rows, warnings)

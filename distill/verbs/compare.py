"""`distill compare`: finished runs side by side, and which of their models are worth what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core import atomic
from distill.core.errors import UsageError
from distill.run_folder import RunFolder
from distill.verbs.flags import AnyPath
from distill.verbs.results import Row

if TYPE_CHECKING:
    from distill.reporting.pareto.fronts import Front


@dataclass(frozen=True)
class CompareResult:
    """Runs side by side.

    Attributes:
        table: a row per run and model, with the axes on whose front it is.
        warnings: what makes the runs hard to compare.
        fronts: an entry per axis and figure: every model with its cost, interval, source, accuracy, and whether it is on the front.
        published: axis -> what others' models cost there, with their papers' ImageNet figures.
        out: the folder that was written, None without one.
        differences: an entry per figure and further run: its student against the first run's, with a 95 % interval.
    """

    table: list[Row]
    warnings: list[str]
    fronts: list[Row] = field(default_factory=list)
    published: dict[str, list[Row]] = field(default_factory=dict)
    out: Path | None = None
    differences: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "table": self.table,
            "differences": self.differences,
            "warnings": self.warnings,
            "fronts": self.fronts,
            "published": self.published,
            "out": None if self.out is None else str(self.out),
        }


def compare(runs: Sequence[AnyPath], *, out: AnyPath | None = None, overwrite: bool = False) -> CompareResult:
    """One row per run and model: accuracy, size, latency, and the axes on whose Pareto front it is.

    Axes are size, this host's latency, and each phone's, predicted ones apart from measured ones. Latencies that were not measured
    alike (machine, system, versions of runtimes, protocol) are left out, and what differs is said; models that were judged on
    different data have no front together.

    Args:
        runs: at least two run folders.
        out: folder for compare.html, compare.json and a plot per axis as .svg and .png; None = none are written.
        overwrite: replace the files of an earlier comparison there.

    Raises UsageError for fewer than two folders, one that is not a run, or an `out` that holds something.
    """  # fmt: skip
    from distill.reporting.facts import read_run
    from distill.reporting.likeness import LATENCIES, differences
    from distill.reporting.pareto.fronts import fronts, marks
    from distill.reporting.pareto.intervals import differences as apart
    from distill.reporting.pareto.intervals import intervals

    if len(runs) < 2:
        raise UsageError("distill compare needs at least two run folders.")
    folder = None if out is None else _free(Path(out).expanduser(), overwrite)
    facts = [read_run(RunFolder(path)) for path in runs]
    found = fronts(facts)
    rows = [
        {"run": item["out"], **row, "intervals": intervals(item, row), "front": marks(found, item["out"], row["model"])}
        for item in facts
        for row in item["table"]
    ]
    judged = {str(item["judged_on"]) for item in facts}
    warnings = [] if len(judged) == 1 else ["The runs were judged on different data: their accuracies do not compare."]
    if unlike := differences(facts):
        warnings.append(f"Latencies are left out: they were not measured alike. {'; '.join(unlike)}.")
        rows = [{**row, **dict.fromkeys(LATENCIES)} for row in rows]
    if any(item["rehearsal"] for item in facts):
        warnings.append("At least one run is a rehearsal, which says nothing of accuracy.")
    gaps = apart(facts, [_judged(RunFolder(item["out"])) for item in facts])
    result = CompareResult(rows, warnings, [front.to_json() for front in found], _references(found), folder, gaps)
    if folder is not None:
        from distill.reporting.pareto.page import write_comparison

        write_comparison(folder, facts, found, result.to_json())
    return result


def _judged(run: RunFolder) -> dict[str, Any]:
    """The record of the run's student, with what was found of each query; {} where it is not there."""
    file = run.eval_of("student")
    return dict(atomic.read_json(file)) if file.exists() else {}


def _free(folder: Path, overwrite: bool) -> Path:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise UsageError(
            f"The output {str(folder)!r} exists. Give another --out, or --overwrite to replace a comparison there."
        )
    return folder


def _references(found: "Sequence[Front]") -> dict[str, list[Row]]:
    """Axis -> published models on it."""
    from distill.reporting.pareto.references import references

    known: dict[str, Any] = {front.axis.name: references(front.axis.name) for front in found}
    return {axis: rows for axis, rows in known.items() if rows}

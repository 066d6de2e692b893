"""`distill curate`: choose among the samples of a reinforced set by filters, and say what was kept and why."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.verbs.flags import AnyPath
from distill.verbs.results import CurateResult


def curate(
    folder: AnyPath,
    filter: Sequence[str],
    *,
    out: AnyPath | None = None,
    dry_run: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    console: Console | None = None,
) -> CurateResult:
    """Run filters ("name:key=value,key=value") over the reinforced set in `folder` (or in the run `folder`).

    Args:
        filter: the filters, in order.
        out: folder of the selection; needed unless `dry_run`.
        dry_run: write nothing.
        seed: of every draw.
        overwrite: replace the selection in `out`.

    Raises:
        UsageError: a filter, key or path is wrong. OutputExistsError: `out` exists.
        DistillError: the set is unfinished or damaged, or no sample is left.
    """
    from reinforced_data.curation.curate import curate as run_filters
    from reinforced_data.curation.evaluation import as_reinforced
    from reinforced_data.curation.selection import refuse_output
    from reinforced_data.store.reader import ReinforcedData

    existing, place = Existing.of(overwrite=overwrite), Path(folder).expanduser()
    if out is None and not dry_run:
        raise UsageError("--out is missing: name the folder to write, or say --dry-run to look first.")
    target = None if out is None or dry_run else Path(out).expanduser()
    if target is not None:
        refuse_output(target, existing)
    with (console or Console()).stage("curate") as advance:
        data = ReinforcedData(as_reinforced(str(place)) or place)
        selection = run_filters(data, list(filter), seed, advance)
    if target is not None:
        selection.save(target, existing)
    return CurateResult(target, selection.kept, len(selection.keys), selection.facts())


def show(result: dict[str, Any]) -> None:
    """Print the result for a person: one table, then a histogram per filter that has a score."""
    from distill.reporting.terminal import print_table
    from reinforced_data.curation.histogram import histogram_lines

    rows = []
    for step in result["filters"]:
        reasons = list(step["dropped"].items()) or [("", 0)]
        for place, (reason, count) in enumerate(reasons):
            first = (step["filter"], str(step["came"]), str(step["kept"])) if place == 0 else ("", "", "")
            rows.append((*first, str(count), reason))
    print_table(("filter", "came", "kept", "dropped", "why"), rows)
    for step in result["filters"]:
        if step["histogram"]:
            print("\n".join(["", step["filter"], *histogram_lines(step["histogram"])]))
    where = "nothing written (dry run)" if result["out"] is None else f"written to {result['out']}"
    print(f"\n{result['kept']} of {result['samples']} samples, {result['draws']} draws an epoch; {where}")

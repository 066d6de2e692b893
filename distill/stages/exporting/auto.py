"""The precision `auto`: the smallest file of a target that loses no more than it may, measured on the files themselves.

Every precision of the target is exported, checked for parity and judged on evaluation data in its own runtime, beside the eager
student on the same data, until one holds the budget. Left out: mixing precisions within one file.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import DistillError
from distill.core.folders.lock import working_in
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evalset
from distill.stages.exporting.files import exported_embedder
from export.artifact import FAILED_PARITY, LOGS, PAIR, read_artifacts, write_artifacts
from export.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from distill.evaluation.evalset import EvalSet

SMALLEST_FIRST = ("p4", "p6", "w8a8", "w8a8-dynamic", "w8", "p8", "w8a16", "fp16", "fp32")
FIGURES = (("retrieval", "t2i_r1"), ("retrieval", "i2t_r1"), ("zero_shot", "top1"))


@dataclass(frozen=True)
class Tried:
    """One precision and what came of it.

    Attributes:
        mb: megabytes of both towers' files; None where none was made.
        lost: points by figure ("t2i_r1", "i2t_r1", "top1"), eager less exported; empty where it was not judged.
        verdict: "chosen", or why not.
    """

    precision: str
    mb: float | None
    lost: dict[str, float]
    verdict: str

    def line(self) -> str:
        """For the terminal."""
        lost = ", ".join(f"{name} {-points:+.2f}" for name, points in self.lost.items())
        size = "" if self.mb is None else f"{self.mb:.1f} MB"
        return "; ".join(filter(None, [f"{self.precision}: {self.verdict}", size, lost]))


def candidates(target: Target, max_mb: float | None) -> list[str]:
    """The target's precisions in the order that they are tried: smallest first, or, where a size is set, most exact first."""
    order: list[str] = [name for name in SMALLEST_FIRST if name in target.precisions]
    return order if max_mb is None else order[::-1]


def within(tried: Tried, max_drop: float, max_mb: float | None) -> str:
    """Why a judged precision does not hold the budget; "" where it does."""
    worst = max(tried.lost.values(), default=0.0)
    if max_mb is not None and (tried.mb or 0.0) > max_mb:
        return f"larger than {max_mb:g} MB"
    return "" if worst <= max_drop else f"loses {worst:.2f} points, more than {max_drop:g}"  # NaN is no small loss


def choose(
    recipe: Recipe,
    run: RunFolder,
    target: Target,
    make: "Callable[[str, Path], None]",
    console: Console,
) -> None:
    """Export a target at the precision that its budget leaves, into run/export/<target>-<precision>.

    Args:
        make: (name of target and precision, folder) -> exports it there; raises DistillError where parity fails.

    Raises DistillError where no precision holds the budget; it tells what was tried.
    """
    settings = recipe.export
    data = _limited(recipe, settings.auto_samples)
    eager = _figures(recipe, data, run)
    tried: list[Tried] = []
    scratch = run.export / f"{atomic.PARTIAL}auto"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for precision in candidates(target, settings.max_mb):
            name = target.at(precision).folder
            found = _try(precision, name, scratch, recipe, data, eager, make)
            console.say(f"{target.name}: {found.line()}")
            tried.append(found)
            if found.verdict == "chosen":
                _keep(scratch / name, run.export / name, tried, settings.max_drop)
                return
    finally:
        _keep_logs(scratch, run.export)
        shutil.rmtree(scratch, ignore_errors=True)
    lines = "; ".join(f"({item.line()})" for item in tried)
    raise DistillError(
        f"No precision of {target.name} holds the budget of {settings.max_drop:g} points"
        + (f" and {settings.max_mb:g} MB" if settings.max_mb is not None else "")
        + f": {lines}. Allow more with --max-drop or --max-mb, or name a precision."
    )


def _try(
    precision: str,
    name: str,
    scratch: Path,
    recipe: Recipe,
    data: "EvalSet",
    eager: dict[str, float],
    make: "Callable[[str, Path], None]",
) -> Tried:
    try:
        make(name, scratch)
    except DistillError as error:  # one precision that cannot be made says nothing of the others
        failed = (scratch / f"{name}{FAILED_PARITY}").is_dir()
        why = " ".join(str(error).partition(". ")[0].split())
        return Tried(precision, None, {}, f"{'failed parity' if failed else 'not made'} ({why})")
    artifacts = read_artifacts(scratch / name)
    if not all(artifact.parity.checked for artifact in artifacts):
        raise DistillError(
            f"The precision auto measures the files themselves, and this machine cannot run those of {name} "
            f"({artifacts[0].parity.checked_by}). Name a precision, and judge it on a phone."
        )
    mb = sum(artifact.size_bytes for artifact in artifacts if artifact.tower in PAIR) / 1e6
    with exported_embedder(scratch / name, recipe.profile.threads) as model:
        from distill.evaluation.evalset import evaluate_model

        figures = _read(evaluate_model(model, data, recipe.eval.batch_size))
    judged = Tried(precision, mb, {key: round(eager[key] - figures[key], 3) for key in eager}, "")
    why = within(judged, recipe.export.max_drop, recipe.export.max_mb)
    return Tried(precision, mb, judged.lost, why or "chosen")


def _keep_logs(scratch: Path, export: Path) -> None:
    """What the converters said outlives their files, beside the logs of other exports."""
    for log in (scratch / LOGS).glob("*.log"):
        (export / LOGS).mkdir(exist_ok=True)
        shutil.move(log, export / LOGS / log.name)


def _keep(made: Path, place: Path, tried: list[Tried], max_drop: float) -> None:
    """Put the chosen folder in its place, with what was tried in its record."""
    chosen = {"by": "auto", "max_drop": max_drop, "tried": [asdict(item) for item in tried]}
    artifacts = read_artifacts(made)
    for artifact in artifacts:
        artifact.provenance["precision"] = chosen
    write_artifacts(made, artifacts)
    with working_in(place.parent, "distill export"), atomic.staged_dir(place) as folder:
        for item in list(made.iterdir()):
            shutil.move(item, folder / item.name)


def _limited(recipe: Recipe, samples: int) -> "EvalSet":
    limit = min(samples, recipe.eval.limit or samples)
    return open_evalset(recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"limit": limit})}))


def _figures(recipe: Recipe, data: "EvalSet", run: RunFolder) -> dict[str, float]:
    """What the eager student reaches on the same data."""
    from distill.evaluation.evalset import evaluate_model, student_embedder
    from students.student import load_student

    return _read(evaluate_model(student_embedder(load_student(run.student), "eager"), data, recipe.eval.batch_size))


def _read(result: dict[str, Any]) -> dict[str, float]:
    return {figure: float(result[table][figure]) for table, figure in FIGURES if result[table] is not None}

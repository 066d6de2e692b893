"""The precision `auto`: the smallest file of a target that loses no more than it may, measured on the files themselves.

Every precision of the target is exported, checked for parity and judged on evaluation data in its own runtime, beside the eager
student on the same data, until one holds the budget. Where one loses too much, and the target can, the layers that lose most when
they alone are quantized stay floats, a few more at each try (`sensitivity`).
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
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
from distill.stages.exporting.sensitivity import BITS, LayerLoss, Measure, steps
from export.artifacts.folder import FAILED_PARITY, LOGS, read_artifacts, write_artifacts
from export.artifacts.record import PAIR
from export.target import Target

if TYPE_CHECKING:
    from distill.evaluation.evalset import EvalSet

Make = Callable[..., None]
SMALLEST_FIRST = ("p4", "p6", "w8a8", "w8a8-dynamic", "w8", "p8", "w8a16", "fp16", "fp32")
FIGURES = (("retrieval", "t2i_r1"), ("retrieval", "i2t_r1"), ("zero_shot", "top1"))


@dataclass(frozen=True)
class Tried:
    """One precision and what came of it.

    Attributes:
        mb: megabytes of both towers' files; None where none was made.
        lost: points by figure ("t2i_r1", "i2t_r1", "top1"), eager less exported; empty where it was not judged.
        verdict: "chosen", or why not.
        kept: tower -> name of a weight that stays floats -> what quantizing it alone loses of the mean-centred cosine.
    """

    precision: str
    mb: float | None
    lost: dict[str, float]
    verdict: str
    kept: dict[str, dict[str, float]] = field(default_factory=dict)

    def line(self) -> str:
        """For the terminal."""
        lost = ", ".join(f"{name} {-points:+.2f}" for name, points in self.lost.items())
        size = "" if self.mb is None else f"{self.mb:.1f} MB"
        floats = ", ".join(f"{len(layers)} of {tower}" for tower, layers in self.kept.items())
        mixed = f" with {floats} in floats" if floats else ""
        return "; ".join(filter(None, [f"{self.precision}{mixed}: {self.verdict}", size, lost]))


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
    make: Make,
    console: Console,
    measure: Measure | None = None,
) -> None:
    """Export a target at the precision that its budget leaves, into run/export/<target>-<precision>.

    Args:
        make: (name of target and precision, folder) -> exports it there; raises DistillError where parity fails. A third argument
            is what stays floats: tower -> names of weights.
        measure: precision -> what each layer loses alone; None = no file is mixed.

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
            for kept in _mixtures(target, precision, tried, settings.max_mb, measure):
                found = _try(precision, name, scratch, recipe, data, eager, kept, make)
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
    kept: list[LayerLoss],
    make: Make,
) -> Tried:
    floats: dict[str, dict[str, float]] = {}
    for layer in kept:
        floats.setdefault(layer.tower, {})[layer.name] = round(layer.lost, 6)
    shutil.rmtree(scratch / f"{name}{FAILED_PARITY}", ignore_errors=True)  # of the try before
    try:
        make(name, scratch, *([{tower: list(layers) for tower, layers in floats.items()}] if floats else []))
    except DistillError as error:  # one precision that cannot be made says nothing of the others
        failed = (scratch / f"{name}{FAILED_PARITY}").is_dir()
        why = " ".join(str(error).partition(". ")[0].split())
        return Tried(precision, None, {}, f"{'failed parity' if failed else 'not made'} ({why})", floats)
    artifacts = read_artifacts(scratch / name)
    if not all(artifact.parity.checked for artifact in artifacts):
        raise DistillError(
            f"The precision auto measures the files themselves, and this machine cannot run those of {name} "
            f"({artifacts[0].parity.checked_by}). Name a precision, and judge it on a phone."
        )
    mb = sum({artifact.file: artifact.size_bytes for artifact in artifacts if artifact.tower in PAIR}.values()) / 1e6
    with exported_embedder(scratch / name, recipe.profile.threads) as model:
        from distill.evaluation.evalset import evaluate_model

        figures = _read(evaluate_model(model, data, recipe.eval.batch_size))
    judged = Tried(precision, mb, {key: round(eager[key] - figures[key], 3) for key in eager}, "")
    why = within(judged, recipe.export.max_drop, recipe.export.max_mb)
    return Tried(precision, mb, judged.lost, why or "chosen", floats)


def _mixtures(
    target: Target, precision: str, tried: list[Tried], max_mb: float | None, measure: Measure | None
) -> Iterator[list[LayerLoss]]:
    """What to keep in floats: nothing first, and, where that was tried and lost too much, more and more.

    `tried` is read as it grows: its last is what came of the one before.
    """
    yield []
    if measure is None or precision not in target.mixes or tried[-1].verdict.startswith(("larger", "not made")):
        return
    smallest = tried[-1].mb
    larger = [BITS[other] for other in target.precisions if BITS[other] > BITS[precision]]
    most = min(larger, default=32) if max_mb is None else 32  # beyond, the next precision alone is smaller
    for kept, bits in steps(measure(precision), precision, 16 if "fp16" in target.precisions[:1] else 32):
        mb = None if smallest is None else smallest * bits / BITS[precision]
        if bits > most or (max_mb is not None and mb is not None and mb > max_mb):
            return
        yield kept
        if tried[-1].verdict.startswith(("larger", "not made")):
            return


def _keep_logs(scratch: Path, export: Path) -> None:
    """What the converters said outlives their files, beside the logs of other exports."""
    for log in (scratch / LOGS).glob("*.log"):
        (export / LOGS).mkdir(exist_ok=True)
        shutil.move(log, export / LOGS / log.name)


def _keep(made: Path, place: Path, tried: list[Tried], max_drop: float) -> None:
    """Put the chosen folder in its place, with what was tried in its record."""
    chosen = {"by": "auto", "max_drop": max_drop, "kept": tried[-1].kept, "tried": [asdict(item) for item in tried]}
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

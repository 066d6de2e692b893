"""Parity: an exported file and its student are run on the same real inputs, and their embeddings are compared.

Left out: the quality of the student (evaluation), how fast the file is (profile).
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill.core.arrays import Array
from export.app.form import Form, batches
from export.artifacts.precision import Precision
from export.artifacts.record import ParityReport, Tower
from export.target import NotCheckedError, Runner, Target
from export.towers.probabilities import compare_probabilities
from export.towers.retrieval import retrieval_drop

if TYPE_CHECKING:  # an environment of a target's own has no pydantic
    from export.settings import ExportSettings


# Of unit vectors around their mean: below it they are one point, as those of a network that was never trained, and what is
# left after the mean is rounding.
SPREAD = 1e-2
POOR = 0.999  # below it, the place where a file's numbers go astray is looked for
ONE_OF_FLOATS = Form()
ORDER_SAMPLES = 8  # are run again with sums added in other orders, which takes as long as all the rest


@dataclass(frozen=True)
class Reference:
    """The embeddings that the eager student gives for the real inputs.

    Attributes:
        pixels: [n, 3, S, S] float32, RGB in [0, 1].
        tokens: [m, L] int32.
        image: [n, D] float32, unit length, from `pixels`.
        text: [m, D] float32, unit length, from `tokens`; no rows, of both, where a model has no text tower.
        probabilities: [n, k] float32, of a classifier's labels, from `pixels`; None where none is made.
        fits: [n] int64, the row of `tokens` that describes each image, -1 = none does; None = not known.
    """

    pixels: Array
    tokens: Array
    image: Array
    text: Array
    probabilities: Array | None = None
    fits: Array | None = None

    def save(self, path: Path) -> None:
        """Write the arrays to the .npz file `path`."""
        np.savez(path, **{name: value for name, value in vars(self).items() if value is not None})

    def golden(self) -> dict[str, Array]:
        """The arrays by the names that golden samples have; a model without text tower has pixels and what it says to them."""
        said = {} if self.probabilities is None else {"label_probabilities": self.probabilities}
        if not len(self.text):
            return {"pixels": self.pixels, **(said or {"image": self.image})}
        return {"pixels": self.pixels, "tokens": self.tokens, "image": self.image, "text": self.text, **said}

    def inputs(self, tower: Tower) -> Array:
        """What a tower is given."""
        return self.tokens if tower == "text" else self.pixels

    def outputs(self, tower: Tower) -> Array:
        """What the eager student says to it."""
        found = {"image": self.image, "text": self.text, "classifier": self.probabilities}[tower]
        assert found is not None
        return found

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """The reference that `save` wrote to `path`."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays)


def compare(exported: Array, eager: Array, other: Array, checked_by: str) -> ParityReport:
    """Compare one tower's embeddings.

    Args:
        exported: [n, D], from the exported file.
        eager: [n, D], from the student, same inputs.
        other: [m, D], the student's embeddings of the other tower, for top-1 agreement; [0, D] of a model without one: the
            nearest among the other inputs then has to be the same.
        checked_by: how `exported` was computed.
    """
    exported, eager, other = (value.astype(np.float64) for value in (exported, eager, other))
    finite = np.isfinite(exported).all(axis=1, keepdims=True)
    exported = np.where(finite, exported, 0.0)  # an embedding with NaN or infinity agrees with nothing: its cosine is 0
    lengths = np.linalg.norm(exported, axis=1) * np.linalg.norm(eager, axis=1)
    cosine = np.sum(exported * eager, axis=1) / np.where(lengths > 0, lengths, np.inf)
    # 1 - d^2 / 2 is the cosine of unit vectors; it also notices a length that is not 1 (a lost L2 norm).
    cosine = np.minimum(cosine, 1 - np.square(exported - eager).sum(axis=1) / 2)
    found, wanted = exported @ (other if len(other) else eager).T, eager @ (other if len(other) else eager).T
    if not len(other):  # no input is its own neighbour
        np.fill_diagonal(found, -np.inf)
        np.fill_diagonal(wanted, -np.inf)
    same = np.argmax(found, axis=1) == np.argmax(wanted, axis=1)
    report = ParityReport(
        checked_by=checked_by,
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        top1_agreement=float(same.mean()),
        samples=len(eager),
        cosine_p1=float(np.percentile(cosine, 1)),
    )
    mean = eager.mean(axis=0)
    apart, got = eager - mean, exported - mean
    if np.sqrt(np.square(apart).sum(axis=1).mean()) < SPREAD:
        return report
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(apart, axis=1)
    centred = np.sum(got * apart, axis=1) / np.where(lengths > 0, lengths, np.inf)
    signal, noise = np.square(apart).sum(), np.square(exported - eager).sum()
    return replace(
        report,
        centred_cosine_min=float(centred.min()),
        centred_cosine_mean=float(centred.mean()),
        snr_db=float(10 * np.log10(signal / max(noise, 1e-30 * signal))),  # equal ones: 300 dB, which JSON can say
    )


def with_retrieval(report: ParityReport, found: Array, tower: Tower, reference: Reference) -> ParityReport:
    """The report with what the embeddings `found` of a tower cost in retrieval, where pairs are known."""
    if reference.fits is None:
        return report
    pair = (found, reference.text) if tower == "image" else (reference.image, found)
    drop = retrieval_drop((reference.image, reference.text), pair, reference.tokens, reference.fits)
    if drop is None:
        return report
    return replace(
        report,
        retrieval_drop=drop.points,
        retrieval_drop_low=drop.low,
        retrieval_drop_high=drop.high,
        retrieval_pairs=drop.pairs,
    )


def run_all(runner: Runner, inputs: Array, seconds: float | None = None, form: Form = ONE_OF_FLOATS) -> Array:
    """Embeddings [n, D] of the inputs [n, ...], given to the file in its form.

    With `seconds`, no further call is begun after that long; the embeddings are then of the first few, of one call at least.
    """
    start = time.monotonic()
    rows = []
    for said in form.run(runner, inputs):
        rows.append(said)
        if seconds is not None and time.monotonic() - start > seconds:
            break
    return np.concatenate(rows)


def check_file(target: Target, path: Path, tower: Tower, reference: Reference) -> ParityReport:
    """The parity of the exported file `path`, run on the reference's inputs: all, unless its runtime is slow here.

    Of a file that takes several numbers of inputs at a call, the poorest of them all.
    """
    try:
        runner = target.load(path)
    except NotCheckedError as reason:
        return ParityReport(str(reason), None, None, None, 0)
    reports = [_check(target, path, runner, tower, reference, form) for form in target.form.each]
    return min(reports, key=lambda report: -(report.probability_difference or 0) + _cosine_of(report))


def _cosine_of(report: ParityReport) -> float:
    worst = 0.0 if report.cosine_min is None else report.cosine_min
    return worst if np.isfinite(worst) else -np.inf


def _check(target: Target, path: Path, runner: Runner, tower: Tower, reference: Reference, form: Form) -> ParityReport:
    inputs, own = reference.inputs(tower), reference.outputs(tower)
    other = reference.image if tower == "text" else reference.text
    found = run_all(runner, inputs, target.check_seconds, form)
    if tower == "classifier":
        return compare_probabilities(found, own[: len(found)], target.checked_by)
    report = with_retrieval(compare(found, own[: len(found)], other, target.checked_by), found, tower, reference)
    few = slice(0, ORDER_SAMPLES)
    orders = [run_all(again, inputs[few], target.check_seconds, form) for again in target.other_orders(path)]
    nearest = [compare(rows, found[: len(rows)], other, "").cosine_min for rows in orders if len(found) >= len(rows)]
    worst = report.cosine_min
    if worst is not None and not worst >= POOR:
        at = int(np.argmin(np.sum(found * own[: len(found)], axis=1)))
        (rows,) = batches(inputs[at : at + 1], form.batch)
        report = replace(report, diverges=target.first_divergence(path, np.ascontiguousarray(form.given(rows))))
    return replace(report, order_cosine_min=min((cosine for cosine in nearest if cosine is not None), default=None))


def allowed_difference(precision: Precision, settings: "ExportSettings") -> float:
    """How far a probability of a classifier at `precision` may lie from the eager model's; fp32's a hundredth of fp16's."""
    if precision.closeness == "quantized":
        return settings.max_probability_difference_quantized
    return settings.max_probability_difference / (1 if precision.closeness == "half" else 100)


def required_cosine(precision: Precision, settings: "ExportSettings") -> float:
    """The cosine that every sample of a file at `precision` must reach: fp32 comes a hundred times nearer to 1 than fp16."""
    if precision.closeness == "quantized":
        return settings.min_cosine_quantized
    return settings.min_cosine if precision.closeness == "half" else 1 - (1 - settings.min_cosine) / 100

"""`ExportJob`: one target of one export, and what becomes of its files when the process that made them has ended.

Left out: which jobs there are and when each runs (export.run), converting and checking (export.children.convert).
"""

import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.errors import DistillError
from export.app.kit import AppKit, lay_out
from export.app.licence import LICENSE_FILE, Notice, licence_text
from export.artifacts.folder import FAILED_PARITY, LOGS, hash_path, size_of, write_artifacts
from export.artifacts.record import TOWERS, ExportArtifact, Operations, ParityReport, Tower
from export.children.conversion import Conversion
from export.target import INPUT_NAMES, OUTPUT_NAMES, Target
from export.towers.parity import Reference
from export.towers.retrieval import ENOUGH_PAIRS

MEANINGS = {
    "embedding": "embedding of unit length; the dot product of an image's and a text's is their cosine",
    "probabilities": "a probability per label, as `classes` says",
}


@dataclass(frozen=True)
class ExportJob:
    """One target of one export: what is asked for, what the files must reach, and what is said about them.

    Attributes:
        out: folder of all targets.
        request: hash of everything that the files depend on.
        bar: the cosine that every sample must reach.
        centred_bar: the mean-centred cosine that samples must reach in the mean; None = not asked for.
        versions: package -> version of what makes and runs the files.
        licence, provenance: carried into the artifact of every tower.
        probability_bar, top1_bar: of a classifier, the difference that no probability may exceed, and the share of pictures with
            the same most probable label.
        drop_bar: the points of recall at 1 that may be lost, where the interval of the loss excludes 0.
    """

    target: Target
    out: Path
    request: str
    bar: float
    centred_bar: float | None
    versions: dict[str, str]
    licence: str
    provenance: dict[str, Any]
    probability_bar: float = 1.0
    top1_bar: float = 0.0
    drop_bar: float = math.inf

    @property
    def folder(self) -> Path:
        """Where the files come to lie when they are whole and passed."""
        return self.out / self.target.folder

    @property
    def bar_key(self) -> str:
        """The setting that `bar` comes from."""
        return f"min_cosine{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "_quantized" if self.target.precision.closeness == "quantized" else ""

    @property
    def notice(self) -> Notice:
        """What is written into the files."""
        return Notice.of(self.licence, self.provenance)

    def write_licence(self, folder: Path) -> dict[str, str]:
        """Write LICENSE into `folder`. Returns its name and hex SHA-256."""
        atomic.write_text(folder / LICENSE_FILE, licence_text(self.notice, self.provenance))
        return {LICENSE_FILE: hash_path(folder / LICENSE_FILE)}

    @property
    def log_file(self) -> Path:
        """What the converting process prints."""
        return self.out / LOGS / f"{self.target.folder}.log"

    def judged(self, artifact: ExportArtifact) -> ExportArtifact:
        """The artifact with its fragility by this job's bar."""
        cosine = artifact.parity.order_cosine_min
        return replace(artifact, parity=replace(artifact.parity, fragile=cosine is not None and not cosine >= self.bar))

    def fragility(self, artifacts: list[ExportArtifact]) -> str:
        """A sentence about towers whose embeddings hang on the order of sums; "" where none does."""
        fragile = [a for a in artifacts if a.parity.fragile]
        if not fragile:
            return ""
        figures = ", ".join(f"{a.tower} {self.figure(a.parity.order_cosine_min)}" for a in fragile)
        return (
            f"{self.target.precision.name} is fragile for this student: the same program with its sums added in another order "
            f"gives other embeddings (smallest cosine {figures}). A phone adds in an order of its own, so check there, or export "
            "a more precise file."
        )

    def few_pairs(self, artifacts: list[ExportArtifact]) -> str:
        """A sentence where recall was compared on too few pairs to fail a file for it; "" else."""
        few = [
            a.parity
            for a in artifacts
            if a.parity.retrieval_drop is not None and a.parity.retrieval_pairs < ENOUGH_PAIRS
        ]
        if not few:
            return ""
        return (
            f"R@1 was compared on {few[0].retrieval_pairs} pairs, too few to judge a file by (export.max_retrieval_drop takes "
            f"{ENOUGH_PAIRS}). Set export.parity_samples higher, or give more data."
        )

    def figure(self, cosine: float | None) -> str:
        """A cosine with enough decimals to be told from the bar."""
        decimals = 5 if self.bar >= 1 else max(5, 1 + round(-math.log10(1 - self.bar)))
        return "nothing" if cosine is None else f"{cosine:.{decimals}f}"

    def below_bar(self, artifacts: list[ExportArtifact]) -> list[ExportArtifact]:
        """Those whose samples miss a bar; a tower that was not checked is reported as such, not failed."""
        return [a for a in artifacts if self.misses(a.parity)]

    def misses(self, parity: ParityReport) -> str:
        """Which bar is missed and by which figure; "" for none."""
        worst, centred = parity.cosine_min, parity.centred_cosine_mean
        apart, same = parity.probability_difference, parity.top1_agreement
        if apart is not None and not apart <= self.probability_bar:
            return (
                f"largest difference of a probability {apart:.4f}, at most {self.probability_bar:g} is allowed "
                f"(export.max_probability_difference{self._suffix})"
            )
        if apart is not None and same is not None and not same >= self.top1_bar:
            return (
                f"{same:.1%} of the pictures have the same most probable label, wanted {self.top1_bar:.1%} "
                "(export.min_top1_agreement)"
            )
        if worst is not None and not worst >= self.bar:
            return f"smallest cosine {self.figure(worst)}, wanted {self.figure(self.bar)} (export.{self.bar_key})"
        if self.centred_bar is not None and centred is not None and not centred >= self.centred_bar:
            return (
                f"mean-centred cosine {centred:.3f}, wanted {self.centred_bar:.3f} (export.min_centred_cosine_quantized): little "
                "is left of what tells inputs apart"
            )
        drop, low = parity.retrieval_drop, parity.retrieval_drop_low
        if (
            drop is not None
            and low is not None
            and parity.retrieval_pairs >= ENOUGH_PAIRS
            and low > 0
            and drop > self.drop_bar
        ):
            return (
                f"R@1 falls by {drop:.1f} points (95 % interval {low:.1f} to {parity.retrieval_drop_high:.1f}, "
                f"{parity.retrieval_pairs} pairs), at most {self.drop_bar:g} are allowed (export.max_retrieval_drop)"
            )
        return ""


def accept(job: ExportJob, conversion: Conversion, reference: Reference, work: Path) -> list[ExportArtifact]:
    """Put the files of a conversion that has ended in their place, described; raises DistillError where it failed."""
    result = conversion.result()
    form = job.target.form
    beside = {**lay_out(work, conversion.folder, form), **job.write_licence(conversion.folder)}
    kit = asdict(AppKit.read(work).in_form(form))
    shared = {**kit, "beside": beside, "towers": tuple(tower for tower in TOWERS if tower in result)}
    artifacts = [
        job.judged(replace(_describe(job, tower, conversion.folder, result[tower], reference), **shared))
        for tower in shared["towers"]
    ]
    below = job.below_bar(artifacts)
    failed = job.folder.with_name(job.folder.name + FAILED_PARITY)
    shutil.rmtree(failed, ignore_errors=True)
    with atomic.staged_dir(failed if below else job.folder) as folder:
        for item in list(conversion.folder.iterdir()):
            os.replace(item, folder / item.name)
        write_artifacts(folder, artifacts)
    if below:
        astray = {a.tower: f" (first astray: {a.parity.diverges})" if a.parity.diverges else "" for a in below}
        figures = "; ".join(f"{a.tower}: {job.misses(a.parity)}{astray[a.tower]}" for a in below)
        finding = job.fragility(artifacts)
        raise DistillError(
            f"The exported {job.target.folder} files do not say what the student says: {figures}. "
            f"{finding + ' ' if finding else ''}They are kept in {str(failed)!r} to look at. If {job.target.precision.name} is "
            "too coarse for this student, choose another precision or lower the bar; otherwise please report it with "
            f"{str(job.log_file)!r}."
        )
    return artifacts


def _describe(
    job: ExportJob, tower: Tower, folder: Path, result: dict[str, Any], reference: Reference
) -> ExportArtifact:
    file = folder / job.target.file_of(tower)
    return ExportArtifact(
        target=job.target.name,
        precision=job.target.precision.name,
        tower=tower,
        file=file.name,
        size_bytes=size_of(file),
        sha256=hash_path(file),
        inputs={INPUT_NAMES[tower]: job.target.form.describe(reference.inputs(tower).shape)},
        output={
            "name": OUTPUT_NAMES[tower],
            "shape": f"float32[{'|'.join(str(one.batch) for one in job.target.form.each)},{reference.outputs(tower).shape[1]}]",
            "meaning": MEANINGS["probabilities" if tower == "classifier" else "embedding"],
        },
        seconds=round(result["convert_s"], 2),
        versions=job.versions,
        runs_on=job.target.runs_on,
        parity=ParityReport(**result["parity"]),
        operations=Operations(**result["operations"]),
        options=job.target.options,
        licence=job.licence,
        provenance=job.provenance,
    )

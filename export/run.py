"""`export_student`: one student folder to files proven equal to it, one process per target.

Left out: converting (export.targets), comparing (export.towers.parity), timing (export.latency.measure).
"""

import hashlib
import importlib.metadata
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.core import atomic
from distill.core.arrays import Array
from distill.core.errors import DistillError, UsageError
from distill.core.folders.lock import working_in
from distill.core.machine import usable_cores
from distill.core.progress import Progress, silent
from export.app.classes import Classes
from export.app.licence import Notice
from export.app.samples import Samples
from export.artifacts.folder import STUDENT_KEY, read_if_whole, student_digest, write_artifacts
from export.artifacts.record import ExportArtifact, Tower
from export.children.conversion import Conversion
from export.children.job import ExportJob, accept
from export.settings import ExportSettings
from export.target import Target, chosen_targets
from export.towers.parity import Reference, allowed_difference, required_cosine
from export.towers.programs import CALIBRATION_FILE, REFERENCE_FILE, Programs, check_inputs, write_programs

FORMAT = 9  # raise when the same student would give other files for a reason that no version number shows
NO_TOKENS = np.zeros((0, 0), np.int32)
SLOWEST = "executorch-xnnpack"  # started first, so that the other targets fill the second place beside it


def export_student(
    student_dir: Path,
    out: Path,
    settings: ExportSettings,
    *,
    pixels: Array,
    tokens: Array | None,
    calibration: tuple[Array, Array | None] | None = None,
    licence: str,
    provenance: dict[str, Any],
    resume: bool,
    classes: Classes | None = None,
    captions: Sequence[str] = (),
    photos: Sequence[bytes] = (),
    fits: Sequence[int] = (),
    kept: dict[Tower, list[str]] | None = None,
    progress: Progress = silent,
) -> list[ExportArtifact]:
    """Export the towers of a student to each target and check every file against the student.

    Writes out/<target>-<precision>/{image,text}.<suffix>, with `classes` classifier.<suffix> too, what an app needs beside them
    and, last, artifact.json; logs go to out/logs. A folder is there only when it is whole and passed, and an earlier one stays
    until then; other folders in `out` are left alone.

    Args:
        student_dir: folder that `Student.save` wrote.
        settings: targets, precisions, and the cosine that every sample must reach. How many samples there are is the
            caller's: all of `pixels` and `tokens` are run.
        pixels: [n, 3, S, S] float32, RGB in [0, 1]: real images for the parity check.
        tokens: [m, L] int32: real captions, tokenized; None of a model without text tower.
        calibration: pixels and tokens of the same shapes, other samples, for precisions that learn scales from them.
        licence, provenance: carried into every artifact.
        classes: the labels of a zero-shot classifier; None = none is made.
        captions, photos: what `tokens` and `pixels` were made from, for the golden samples; empty = not known.
        fits: the row of `tokens` that describes each image, -1 = none does; empty = not known, and no retrieval is compared.
        kept: tower -> names of weights, as in its program, that stay floats in quantized files of targets that can mix.
        resume: keep folders that answer the same request and whose files still have their hashes.
        progress: called at each step with how many of the targets are done.

    Returns:
        An artifact per target and tower, in the order of the settings' targets.

    Raises:
        UsageError: unknown target or precision, missing student, wrong parity inputs, a precision that is calibrated
            without `calibration`.
        DistillError: missing packages (with the line that installs them), a conversion that fails (with its last
            lines and its log), another process that works in `out`, or parity below the bar (the folder is kept as
            <target>-<precision>.failed-parity).
    """
    targets = [target.configured(settings) for target in chosen_targets(settings.targets, settings.precisions)]
    if kept:
        targets = [target.keeping(kept) for target in targets]
    for target in targets:
        target.require_packages()
    _check(targets, pixels, tokens, calibration, captions, photos, fits)
    tokens = NO_TOKENS if tokens is None else tokens
    learned_from = (
        None if calibration is None else (calibration[0], NO_TOKENS if calibration[1] is None else calibration[1])
    )
    if settings.input == "uint8":
        pixels = np.round(pixels * 255) / np.float32(255)  # what the files are given
    inputs = {
        "student": student_digest(student_dir),
        "pixels": _digest(pixels),
        "tokens": _digest(tokens),
        "classes": None if classes is None else classes.digest,
        "golden": [settings.golden_samples, list(captions), len(photos)],
        "fits": list(fits),
        "format": FORMAT,
        "torch": importlib.metadata.version("torch"),
    }
    learned = {} if learned_from is None else {"calibration": [_digest(array) for array in learned_from]}
    jobs = [
        _job(target, out, inputs | (learned if target.precision.calibrated else {}), settings, licence, provenance)
        for target in targets
    ]
    golden = settings.golden_samples
    given = Samples(pixels, tokens, learned_from, captions[:golden], photos[:golden], golden, classes, fits)
    with working_in(out, "distill export"):
        done = _keep_or_make(jobs, student_dir, given, settings.jobs, resume, progress)
    return [artifact for job in jobs for artifact in done[job.target.folder]]


def _check(
    targets: Sequence[Target],
    pixels: Array,
    tokens: Array | None,
    calibration: tuple[Array, Array | None] | None,
    captions: Sequence[str],
    photos: Sequence[bytes],
    fits: Sequence[int],
) -> None:
    """Raise UsageError where an argument of `export_student` is not what it says, or does not go with the others."""
    check_inputs(pixels, tokens)
    if calibration is not None:
        check_inputs(*calibration)
    for target in targets if calibration is None else ():
        if target.precision.calibrated:
            raise UsageError(
                f"{target.folder} learns its scales from real inputs, and none were given to calibrate on."
            )
    rows = 0 if tokens is None else len(tokens)
    if (captions and len(captions) != rows) or (photos and len(photos) != len(pixels)):
        raise UsageError("captions and photos, where given, are one per row of tokens and of pixels.")
    if fits and (len(fits) != len(pixels) or not all(-1 <= row < rows for row in fits)):
        raise UsageError("fits, where given, names a row of tokens (or -1) for each row of pixels.")


def _keep_or_make(
    jobs: list[ExportJob], student_dir: Path, given: Samples, side_by_side: int, resume: bool, progress: Progress
) -> dict[str, list[ExportArtifact]]:
    """The artifacts of every job by its folder's name: what is there already, and what is made now."""
    done: dict[str, list[ExportArtifact]] = {}

    def say(note: str) -> None:
        progress(len(done), len(jobs), note)

    for job in jobs if resume else ():
        kept = _kept(job)
        if kept is not None:
            done[job.target.folder] = kept
            say(f"{job.target.folder}: there already, unchanged")
    todo = [job for job in jobs if job.target.folder not in done]
    if todo:
        _export_all(todo, student_dir, given, side_by_side, done, say)
    return done


def _digest(array: Array) -> str:
    kind = repr((array.shape, str(array.dtype))).encode()
    return hashlib.sha256(kind + np.ascontiguousarray(array).tobytes()).hexdigest()


def _job(
    target: Target,
    out: Path,
    inputs: dict[str, Any],
    settings: ExportSettings,
    licence: str,
    provenance: dict[str, Any],
) -> ExportJob:
    versions = target.versions()
    notice = asdict(Notice.of(licence, provenance))
    chosen = {"target": target.folder, "versions": versions, "notice": notice}
    if target.options:
        chosen["options"] = target.options
    request = atomic.sha256_json({**inputs, **chosen})
    return ExportJob(
        target=target,
        out=out,
        request=request,
        bar=required_cosine(target.precision, settings),
        centred_bar=settings.min_centred_cosine_quantized if target.precision.closeness == "quantized" else None,
        probability_bar=allowed_difference(target.precision, settings),
        top1_bar=settings.min_top1_agreement,
        drop_bar=settings.max_retrieval_drop,
        versions=versions,
        licence=licence,
        provenance={**provenance, "export_request": request, STUDENT_KEY: inputs["student"]},
    )


def _kept(job: ExportJob) -> list[ExportArtifact] | None:
    """The artifacts of an earlier export that answers the same request and passes this one's bar, else None."""
    artifacts = read_if_whole(job.folder, job.request)
    if artifacts is None or job.below_bar(artifacts):
        return None
    judged = [job.judged(artifact) for artifact in artifacts]
    if judged == artifacts and all(artifact.provenance == job.provenance for artifact in artifacts):
        return artifacts
    # The files are the same (terms, student and teachers are in the request), what is said about them is not.
    licence = job.write_licence(job.folder)
    current = [replace(old, provenance=job.provenance, beside={**old.beside, **licence}) for old in judged]
    write_artifacts(job.folder, current)
    return current


def _export_all(
    todo: list[ExportJob],
    student_dir: Path,
    given: Samples,
    side_by_side: int,
    done: dict[str, list[ExportArtifact]],
    say: Callable[[str], None],
) -> None:
    """Make the folders of `todo`, and add each one's artifacts to `done` under its folder's name."""
    work = todo[0].out / f"{atomic.PARTIAL}work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        say("preparing the deployable towers")
        programs = write_programs(student_dir, work, given, [job.target.form for job in todo])
        if given.calibration is not None:
            np.savez(work / CALIBRATION_FILE, pixels=given.calibration[0], tokens=given.calibration[1])
        given.lay_golden(work, Reference.load(work / REFERENCE_FILE).golden())
        _convert_all(todo, programs, work, side_by_side, done, say)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _convert_all(
    todo: list[ExportJob],
    programs: Programs,
    work: Path,
    side_by_side: int,
    done: dict[str, list[ExportArtifact]],
    say: Callable[[str], None],
) -> None:
    """Run the conversions, some side by side. One that fails does not stop the others: a resume then has less to do."""
    reference = Reference.load(work / REFERENCE_FILE)
    threads = max(1, usable_cores() // min(side_by_side, len(todo)))
    pending = sorted(todo, key=lambda job: job.target.name != SLOWEST)
    running: list[tuple[ExportJob, Conversion]] = []
    errors: list[DistillError] = []
    try:
        while pending or running:
            while pending and len(running) < side_by_side:
                job = pending.pop(0)
                running.append(
                    (
                        job,
                        Conversion.start(
                            job.target, programs[job.target.form.graph], job.notice, work, job.log_file, threads
                        ),
                    )
                )
                say(f"{job.target.folder}: converting")
            ended = [pair for pair in running if pair[1].ended]
            for job, conversion in ended:
                running.remove((job, conversion))
                try:
                    done[job.target.folder] = accept(job, conversion, reference, work)
                    say(f"{job.target.folder}: done in {time.monotonic() - conversion.started:.0f} s")
                    for finding in filter(None, (job.fragility(made := done[job.target.folder]), job.few_pairs(made))):
                        say(f"{job.target.folder}: {finding}")
                except DistillError as error:
                    say(f"{job.target.folder}: failed")
                    errors.append(error)
            if not ended:
                time.sleep(0.05)
    finally:
        for _, conversion in running:
            conversion.stop()
    if errors:
        raise errors[0] if len(errors) == 1 else DistillError("\n\n".join(str(error) for error in errors))

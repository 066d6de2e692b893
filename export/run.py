"""`export_student`: one student folder to measured-to-be-equal files, one process per target.

Left out: converting (export.targets), comparing (export.parity), timing (export.profile).
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from distill.core import atomic
from distill.core.errors import DistillError
from export.artifact import ExportArtifact, ParityReport, hash_path, size_of, whole, write_artifacts
from export.children.process import failure, spawn
from export.parity import required_cosine
from export.target import INPUT_NAMES, OUTPUT_NAMES, TOWERS, Target, get_target
from export.towers.programs import REFERENCE_FILE, check_inputs, student_digest, write_programs

Array = np.ndarray[Any, Any]
Progress = Callable[[str], None]
FORMAT = 1  # raise when the same student would give other files for a reason that no version number shows


@dataclass
class _Job:
    target: Target
    request: str
    work: Path
    log_file: Path
    log: IO[bytes]
    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)


def export_student(
    student_dir: Path,
    out: Path,
    *,
    targets: list[str],
    pixels: Array,
    tokens: Array,
    licence: str,
    provenance: dict[str, Any],
    resume: bool,
    min_cosine: float = 0.99,
    jobs: int = 2,
    rehearsal: bool = False,
    progress: Progress | None = None,
) -> list[ExportArtifact]:
    """Export both towers of a student to each target and check every file against the student.

    Writes out/<target>-<precision>/{image,text}.<suffix> and, last, artifact.json; logs go to out/logs. A folder is
    there only when it is whole and passed.

    Args:
        student_dir: folder that `Student.save` wrote.
        pixels: [n, 3, S, S] float32, RGB in [0, 1]: real images for the parity check; all are run.
        tokens: [m, L] int32: real captions, tokenized.
        licence, provenance: carried into every artifact.
        resume: keep folders that answer the same request and whose files still have their hashes.
        min_cosine: what every sample must reach in fp16 files; fp32 files must be a hundred times closer to 1.
        jobs: targets converted side by side.
        rehearsal: marks the artifacts as made from random weights.
        progress: called with one line at each step.

    Returns:
        Two artifacts (image, text) per target, in the order of `targets`.

    Raises:
        UsageError: unknown target, missing student, wrong parity inputs.
        DistillError: missing packages (with the line that installs them), a conversion that fails (with its last
            lines and its log), or parity below the bar (the folder is kept as <target>-<precision>.failed-parity).
    """
    say: Progress = progress or (lambda line: None)
    chosen = [get_target(name) for name in dict.fromkeys(get_target(name).name for name in targets)]
    _require_packages(chosen)
    check_inputs(pixels, tokens)
    shared = {
        "student": student_digest(student_dir),
        "pixels": _digest(pixels),
        "tokens": _digest(tokens),
        "format": FORMAT,
        "torch": importlib.metadata.version("torch"),
    }
    done: dict[str, list[ExportArtifact]] = {}
    todo: list[tuple[Target, str]] = []
    notes = {**provenance, "rehearsal": True} if rehearsal else dict(provenance)
    for target in chosen:
        request = atomic.sha256_json({**shared, "target": target.folder, "versions": _versions(target)})
        kept = _kept(out / target.folder, target, request, min_cosine, licence, notes) if resume else None
        if kept is None:
            todo.append((target, request))
        else:
            say(f"{target.folder}: there already, unchanged")
            done[target.name] = kept
    if todo:
        done.update(_export_all(student_dir, out, todo, pixels, tokens, licence, notes, min_cosine, jobs, say))
    return [artifact for target in chosen for artifact in done[target.name]]


def _require_packages(targets: list[Target]) -> None:
    for target in targets:
        line = target.missing()
        if line:
            raise DistillError(f"The target {target.name!r} needs packages that are not installed. Run: {line}")


def _digest(array: Array) -> str:
    import hashlib

    return hashlib.sha256(
        repr((array.shape, str(array.dtype))).encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


def _versions(target: Target) -> dict[str, str]:
    """Versions of what makes and runs the file; another version means that a kept file is not the same any more."""
    names = ["torch", "timm", "open_clip_torch", *(spec.split(">")[0] for spec in target.requires.values())]
    return {name: importlib.metadata.version(name) for name in names} | {"python": platform.python_version()}


def _kept(
    folder: Path, target: Target, request: str, min_cosine: float, licence: str, notes: dict[str, Any]
) -> list[ExportArtifact] | None:
    artifacts = whole(folder, request)
    if artifacts is None or _below(artifacts, required_cosine(target, min_cosine)):
        return None
    current = [replace(a, licence=licence, provenance={**notes, "export_request": request}) for a in artifacts]
    if current != artifacts:  # the files are the same, what is said about them is not
        write_artifacts(folder, current)
    return current


def _export_all(
    student_dir: Path,
    out: Path,
    todo: list[tuple[Target, str]],
    pixels: Array,
    tokens: Array,
    licence: str,
    notes: dict[str, Any],
    min_cosine: float,
    jobs: int,
    say: Progress,
) -> dict[str, list[ExportArtifact]]:
    work = out / f"{atomic.PARTIAL}work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for target, _ in todo:  # whatever is there describes another student, or is not whole
        shutil.rmtree(out / target.folder, ignore_errors=True)
    running: list[_Job] = []
    try:
        say("preparing the deployable towers")
        programs = write_programs(student_dir, work, pixels, tokens)
        done: dict[str, list[ExportArtifact]] = {}
        errors: list[DistillError] = []
        # The slowest first, so that the others fill the second place beside it.
        pending = sorted(todo, key=lambda item: item[0].name != "executorch-xnnpack")
        threads = max(1, (os.cpu_count() or 1) // max(1, min(jobs, len(pending))))
        while pending or running:
            while pending and len(running) < max(1, jobs):
                target, request = pending.pop(0)
                running.append(_start(target, request, work, out, programs, threads))
                say(f"{target.folder}: converting")
            finished = [job for job in running if job.process.poll() is not None]
            for job in finished:
                running.remove(job)
                try:
                    done[job.target.name] = _finish(job, out, min_cosine, licence, notes, pixels, tokens)
                    say(f"{job.target.folder}: done in {time.monotonic() - job.started:.0f} s")
                except DistillError as error:  # the other targets still finish: a resume then has less to do
                    say(f"{job.target.folder}: failed")
                    errors.append(error)
            if not finished:
                time.sleep(0.05)
    finally:
        for job in running:
            job.process.kill()
            job.process.wait()
            job.log.close()
        shutil.rmtree(work, ignore_errors=True)
    if errors:
        raise errors[0] if len(errors) == 1 else DistillError("\n\n".join(str(error) for error in errors))
    return done


def _start(target: Target, request: str, work: Path, out: Path, programs: dict[str, str], threads: int) -> _Job:
    folder = work / target.folder
    folder.mkdir()
    job_file = work / f"{target.folder}.json"
    job = {
        "target": target.name,
        "folder": str(folder),
        "programs": programs,
        "reference": str(work / REFERENCE_FILE),
        "result": str(work / f"{target.folder}-result.json"),
        "threads": threads,
    }
    job_file.write_text(json.dumps(job), encoding="utf-8")
    log_file = out / "logs" / f"{target.folder}.log"
    log_file.parent.mkdir(exist_ok=True)
    log = open(log_file, "wb")  # noqa: SIM115  # closed when the process has ended
    process = spawn(["-m", "export.children.convert", str(job_file)], threads=threads, log=log)
    return _Job(target, request, folder, log_file, log, process)


def _finish(
    job: _Job, out: Path, min_cosine: float, licence: str, notes: dict[str, Any], pixels: Array, tokens: Array
) -> list[ExportArtifact]:
    """Put the worker's folder in its place and describe it, or raise."""
    job.log.close()
    assert job.process.stdin is not None
    job.process.stdin.close()
    result_file = job.work.with_name(f"{job.target.folder}-result.json")
    if job.process.returncode != 0 or not result_file.exists():
        raise failure(f"Exporting to {job.target.name}", job.process.returncode, job.log_file)
    result = atomic.read_json(result_file)
    width = int(np.load(job.work.with_name(REFERENCE_FILE))["image"].shape[1])
    shapes = {"image": [1, *pixels.shape[1:]], "text": [1, tokens.shape[1]]}
    artifacts = []
    for tower in TOWERS:
        file = job.work / f"{tower}{job.target.suffix}"
        artifacts.append(
            ExportArtifact(
                target=job.target.name,
                precision=job.target.precision,
                tower=tower,
                file=file.name,
                size_bytes=size_of(file),
                sha256=hash_path(file),
                inputs={INPUT_NAMES[tower]: _describe_input(tower, shapes[tower])},
                output={
                    "name": OUTPUT_NAMES[tower],
                    "shape": f"float32[1,{width}]",
                    "meaning": "embedding of unit length; the dot product of an image's and a text's is their cosine",
                },
                seconds=round(result[tower]["convert_s"], 2),
                versions=_versions(job.target),
                parity=ParityReport(**result[tower]["parity"]),
                licence=licence,
                provenance={**notes, "export_request": job.request},
            )
        )
    bar = required_cosine(job.target, min_cosine)
    below = _below(artifacts, bar)
    final = out / job.target.folder
    failed = out / f"{job.target.folder}.failed-parity"
    shutil.rmtree(failed, ignore_errors=True)
    with atomic.staged_dir(failed if below else final) as folder:
        for item in list(job.work.iterdir()):
            os.replace(item, folder / item.name)
        write_artifacts(folder, artifacts)
    if below:
        figures = ", ".join(f"{a.tower} {a.parity.cosine_min:.5f}" for a in below)
        raise DistillError(
            f"The exported {job.target.name} file does not say what the student says: smallest cosine {figures}, "
            f"wanted {bar:.5f}. It is kept in {str(failed)!r} to look at. If {job.target.precision} is too coarse for "
            f"this student, choose another target or lower export.min_cosine; otherwise please report it with "
            f"{str(job.log_file)!r}."
        )
    return artifacts


def _below(artifacts: list[ExportArtifact], bar: float) -> list[ExportArtifact]:
    """Those whose worst sample misses the bar; a tower that was not checked is reported as such, not failed."""
    return [a for a in artifacts if a.parity.cosine_min is not None and not a.parity.cosine_min >= bar]


def _describe_input(tower: str, shape: list[int]) -> str:
    sizes = ",".join(str(size) for size in shape)
    if tower == "image":
        return f"float32[{sizes}] RGB in [0, 1], already resized to a square; normalisation is inside"
    return f"int32[{sizes}] token ids with start and end token, zero padded"

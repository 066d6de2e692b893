"""`profile` measures how long each exported tower takes, or says why it could not be measured.

Eager means the same deployable towers in eager torch. On the host every runtime has a process of its own; rounds
alternate between them, forwards and backwards, so that a machine that slows down slows all of them. Left out:
predicting a phone from a host (a host cannot rank precisions for a phone); phones are timed by their device modules.
"""

import importlib.metadata
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.core import atomic
from distill.core.errors import DistillError
from distill.core.folders.lock import working_in
from distill.core.progress import Progress, silent
from export.artifacts.folder import profile_file, read_artifacts
from export.artifacts.record import TOWERS, ExportArtifact, LatencyProfile
from export.children.timing import Runtime
from export.device import DEVICES, DeviceInfo, list_devices
from export.settings import ProfileSettings
from export.target import Target, get_target

EAGER = "eager"
INPUTS = 8  # distinct inputs that the timed calls cycle through


def profile(
    folders: list[Path],
    student_dir: Path | None,
    settings: ProfileSettings,
    *,
    resume: bool = False,
    progress: Progress = silent,
) -> list[LatencyProfile]:
    """Time all towers of every exported folder, and the eager student where it is there, each at its own batch.

    Writes profile-<device>.json into each exported folder: the device, that folder's rows and the eager ones.

    Args:
        folders: exported folders, each with an artifact.json.
        student_dir: the student that they were made from, for the eager rows; None = it is not there, and they are left out.
        settings: devices ("host", or names from `list_devices()`; empty = all of these), threads of each runtime,
            counted calls per tower and runtime over all rounds, uncounted calls before those of each round. A device
            that is not there or cannot be timed gives rows whose source is "not measured", with the reason. A phone
            that fails in the middle is an error where it was asked for by name, and such rows where it was not.
        resume: take what a phone has measured before, of the same files by the same protocol.
        progress: called with the rounds that are done.

    Raises:
        UsageError: a folder that is no exported one.
        DistillError: a runtime that dies while it is timed; another process that works in the folder of the exports.
    """
    artifacts = {folder: read_artifacts(folder) for folder in folders}
    with ExitStack() as stack:
        for place in dict.fromkeys(folder.parent for folder in folders):  # an export beside it would also slow it down
            stack.enter_context(working_in(place, "distill profile"))
        return _profile(artifacts, student_dir, settings, resume, progress)


def _profile(
    artifacts: dict[Path, list[ExportArtifact]],
    student_dir: Path | None,
    settings: ProfileSettings,
    resume: bool,
    progress: Progress,
) -> list[LatencyProfile]:
    known = {info.name: info for info in list_devices(settings)}
    result: list[LatencyProfile] = []
    rows: _Rows
    for device in dict.fromkeys(settings.devices or [name for name, found in known.items() if not found.attended]):
        info = known.get(device) or _absent_device(device, known)
        if info.kind == "host":
            rows = _measure_host(artifacts, student_dir, info, settings, progress)
        elif info.ready:
            try:
                timed = DEVICES.get(info.kind).measure(info, artifacts, settings, resume=resume, progress=progress)
                rows = {folder: own for folder, own in timed.items()}  # noqa: C416 - a key may be None in `_Rows`
            except DistillError as error:
                if settings.devices:
                    raise
                rows = _not_measured(artifacts, replace(info, missing=str(error)))
        else:
            rows = _not_measured(artifacts, info)
        eager = rows.pop(None, [])
        for folder, own in rows.items():
            assert folder is not None
            record = {"device": asdict(info), "profiles": [asdict(row) for row in own + eager]}
            atomic.write_json(folder / profile_file(device), record)
        result += eager + [row for own in rows.values() for row in own]
    return result


_Rows = dict[Path | None, list[LatencyProfile]]  # None: the eager student's


def _measure_host(
    artifacts: dict[Path, list[ExportArtifact]],
    student_dir: Path | None,
    info: DeviceInfo,
    settings: ProfileSettings,
    progress: Progress,
) -> _Rows:
    rows: _Rows = {}
    jobs: list[tuple[Path | None, str, dict[str, Any]]] = []
    if student_dir is not None:
        jobs.append((None, EAGER, _eager_job(student_dir, artifacts)))
    for folder, towers in artifacts.items():
        target = get_target(towers[0].target, towers[0].precision)
        if reason := target.no_latency:
            rows[folder] = [_not_timed(info.name, target, tower, reason) for tower in towers[0].towers]
        else:
            files = {artifact.tower: artifact.file for artifact in towers}
            jobs.append((folder, target.folder, {"source": str(folder), "files": files, "options": towers[0].options}))
    if not jobs or not artifacts:  # nothing that the eager student would be compared with
        return rows
    scratch = Path(tempfile.mkdtemp(prefix="distill-profile-"))
    keep = False
    try:
        with ExitStack() as stack:
            inputs = scratch / "inputs.npz"
            np.savez(inputs, **timing_inputs([item for towers in artifacts.values() for item in towers]))
            runtimes: list[Runtime] = []
            for _, label, job in jobs:
                request = {"runtime": label, "threads": settings.threads, "inputs": str(inputs), **job}
                python = None if label == EAGER else get_target(label).python()
                runtimes.append(Runtime(f"{len(runtimes)}-{label}", request, scratch, python))
                stack.callback(runtimes[-1].close)
            _take_turns(runtimes, settings, progress)
    except DistillError:
        keep = True  # its message names a log in there
        raise
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)
    for (source, label, job), runtime in zip(jobs, runtimes, strict=True):
        batch = int(job.get("batch", job.get("options", {}).get("batch", 1)))
        rows[source] = [
            _measured(info.name, label, tower, times, settings, batch) for tower, times in runtime.times.items()
        ]
    return rows


def _eager_job(student_dir: Path, artifacts: dict[Path, list[ExportArtifact]]) -> dict[str, Any]:
    """The towers that some folder has; of classifiers, the one with the most labels."""
    made = [item for towers in artifacts.values() for item in towers]
    labels = max((int(item.classes.get("count", 0)) for item in made), default=0)
    batch = max((int(item.options.get("batch", 1)) for item in made), default=1)
    return {
        "source": str(student_dir),
        "batch": batch,
        "towers": [t for t in TOWERS if any(t in m.towers for m in made)],
        "labels": labels,
    }


def _take_turns(runtimes: list[Runtime], settings: ProfileSettings, progress: Progress) -> None:
    """Collect each runtime's times. One works at a time; every second round goes backwards."""
    rounds = settings.rounds
    for runtime in runtimes:
        runtime.answer()  # loaded and ready
    progress(0, rounds, f"host: {len(runtimes)} runtimes are loaded")
    for index in range(rounds):
        share = settings.runs // rounds + (index < settings.runs % rounds)
        for tower in TOWERS:
            able = [runtime for runtime in runtimes if tower in runtime.times]
            for runtime in able if index % 2 == 0 else able[::-1]:
                runtime.measure(tower, share, settings.warmup_runs)
        progress(index + 1, rounds, f"host: round {index + 1} of {rounds}")


def timing_inputs(artifacts: list[ExportArtifact]) -> dict[str, Any]:
    """Inputs of the towers' shapes, pixels as floats. Dense towers take the same time whatever the pixels or words are."""
    random, facts = np.random.default_rng(0), artifacts[0]
    made: dict[str, Any] = {"pixels": random.random((INPUTS, 3, *facts.preprocess["size"]), dtype=np.float32)}
    if "text" in facts.towers:
        vocabulary, length = (int(facts.tokenizer[key]) for key in ("vocabulary_size", "context_length"))
        made["tokens"] = random.integers(1, vocabulary - 2, (INPUTS, length), dtype=np.int32)
        made["tokens"][:, -1] = vocabulary - 1
    return made


def _measured(
    device: str, label: str, tower: str, times: list[float], settings: ProfileSettings, batch: int
) -> LatencyProfile:
    p50, p90, p99 = (round(float(value), 4) for value in np.percentile(times, [50, 90, 99]))
    return LatencyProfile(
        device=device,
        runtime=_runtime_name(label),
        tower=tower,
        precision="fp32" if label == EAGER else get_target(label).precision.name,
        source="measured",
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        threads=settings.threads,
        batch=batch,
        runs=len(times),
        warmup_runs=settings.warmup_runs,
        rounds=settings.rounds,
        note="this computer's CPU; it does not rank runtimes or precisions for a phone",
    )


def _not_measured(artifacts: dict[Path, list[ExportArtifact]], info: DeviceInfo) -> _Rows:
    return {
        path: [
            _not_timed(info.name, get_target(towers[0].target, towers[0].precision), tower, info.missing)
            for tower in towers[0].towers
        ]
        for path, towers in artifacts.items()
    }


def _not_timed(device: str, target: Target, tower: str, reason: str) -> LatencyProfile:
    return LatencyProfile(
        device=device,
        runtime=target.runtime,
        tower=tower,
        precision=target.precision.name,
        source="not measured",
        note=reason,
    )


def _absent_device(device: str, known: dict[str, DeviceInfo]) -> DeviceInfo:
    reasons = "; ".join(f"{info.name}: {info.missing}" for info in known.values() if not info.ready)
    return DeviceInfo(device, "absent", missing=f"no device {device!r} is attached ({reasons})")


def _runtime_name(label: str) -> str:
    """For example "ONNX Runtime (onnxruntime 1.32.0)"."""
    if label == EAGER:
        return f"PyTorch eager (torch {importlib.metadata.version('torch')})"
    target = get_target(label)
    return f"{target.runtime} ({target.package} {target.package_version()})"

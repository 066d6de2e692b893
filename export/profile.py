"""`profile`: how long each exported tower takes, and where it was not measured, why not.

Eager means the same deployable towers in eager torch. On the host every runtime has a process of its own; rounds
alternate between them, forwards and backwards, so that a machine that slows down slows all of them. Left out:
predicting a phone from a host (a host cannot rank precisions for a phone), phones themselves until their device
modules can time.
"""

import importlib.metadata
import json
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distill.core import atomic
from distill.core.clip.folder import read_config
from distill.core.errors import UsageError
from export.artifact import ExportArtifact, LatencyProfile, read_artifacts
from export.children.process import failure, spawn
from export.device import DeviceInfo, list_devices
from export.target import TOWERS, get_target

Progress = Callable[[str], None]
EAGER = "eager"
INPUTS = 8  # distinct inputs that the timed calls cycle through


class _Runtime:
    """A running bench worker. Raises DistillError with the worker's last lines when it dies."""

    def __init__(self, label: str, job: dict[str, Any], folder: Path) -> None:
        self.label = label
        self.times: dict[str, list[float]] = {tower: [] for tower in TOWERS}
        self.log_file = folder / f"{label}.log"
        job_file = folder / f"{label}.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        with open(self.log_file, "wb") as log:
            self.process = spawn(
                ["-m", "export.children.bench", str(job_file)], threads=job["threads"], log=log, stdout=subprocess.PIPE
            )

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise failure(f"Timing {self.label}", self.process.wait(), self.log_file)
        return json.loads(line)

    def measure(self, tower: str, runs: int, warmup_runs: int) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(
                json.dumps({"tower": tower, "runs": runs, "warmup_runs": warmup_runs}).encode() + b"\n"
            )
            self.process.stdin.flush()
        except BrokenPipeError:
            raise failure(f"Timing {self.label}", self.process.wait(), self.log_file) from None
        self.times[tower] += self.answer()["ms"]

    def close(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()


def profile(
    artifact_dirs: list[Path],
    student_dir: Path,
    *,
    devices: list[str],
    threads: int,
    runs: int,
    warmup_runs: int,
    rounds: int,
    progress: Progress | None = None,
) -> list[LatencyProfile]:
    """Time both towers of every exported folder, and the eager student, at batch 1.

    Writes profile-<device>.json into each exported folder: the device, that folder's rows and the eager ones.

    Args:
        artifact_dirs: folders with an artifact.json.
        student_dir: the student that they were made from, for the eager rows.
        devices: "host", or names from `list_devices()`. A device that is not there or cannot be timed yet gives
            rows whose source is "not measured", with the reason.
        threads: intra-op threads of each runtime.
        runs: counted calls per tower and runtime, over all rounds.
        warmup_runs: uncounted calls before those of each round.
        rounds: how often the runtimes take turns.

    Raises:
        UsageError: a folder that is no exported one, or counts below 1.
        DistillError: a runtime that dies while it is timed.
    """
    if min(threads, runs, rounds) < 1 or warmup_runs < 0:
        raise UsageError("Profiling needs threads, runs and rounds of at least 1, and warmup_runs of at least 0.")
    artifacts = {folder: read_artifacts(folder) for folder in artifact_dirs}
    known = {info.name: info for info in list_devices()}
    result: list[LatencyProfile] = []
    for device in dict.fromkeys(devices):
        info = known.get(device) or _absent(device, known)
        if info.kind == "host":
            rows = _measure_host(
                artifacts, student_dir, info, threads, runs, warmup_runs, rounds, progress or (lambda line: None)
            )
        else:
            rows = _not_measured(artifacts, info)
        eager = rows.pop(None, [])
        for folder, own in rows.items():
            assert folder is not None
            record = {"device": asdict(info), "profiles": [asdict(row) for row in own + eager]}
            atomic.write_json(folder / f"profile-{_file_name(device)}.json", record)
        result += eager + [row for own in rows.values() for row in own]
    return result


_Rows = dict[Path | None, list[LatencyProfile]]  # None: the eager student's


def _measure_host(
    artifacts: dict[Path, list[ExportArtifact]],
    student_dir: Path,
    info: DeviceInfo,
    threads: int,
    runs: int,
    warmup_runs: int,
    rounds: int,
    say: Progress,
) -> _Rows:
    rows: _Rows = {}
    jobs: list[tuple[Path | None, str, dict[str, Any]]] = [(None, EAGER, {"source": str(student_dir)})]
    for folder, towers in artifacts.items():
        target = get_target(towers[0].target)
        if target.no_latency:
            rows[folder] = [_blank(info.name, target.runtime, tower, target.no_latency) for tower in TOWERS]
        else:
            files = {artifact.tower: artifact.file for artifact in towers}
            jobs.append((folder, target.name, {"source": str(folder), "files": files}))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        scratch = Path(name)
        inputs = scratch / "inputs.npz"
        np.savez(inputs, **_inputs(student_dir))
        running: list[_Runtime] = []
        for _, label, job in jobs:
            request = {"runtime": label, "threads": threads, "inputs": str(inputs), **job}
            running.append(_Runtime(f"{len(running)}-{label}", request, scratch))
            stack.callback(running[-1].close)
        for runtime in running:
            runtime.answer()  # loaded and ready
        say(f"host: {len(running)} runtimes are loaded")
        for index in range(rounds):
            share = runs // rounds + (index < runs % rounds)
            for tower in TOWERS:
                for runtime in running if index % 2 == 0 else running[::-1]:
                    runtime.measure(tower, share, warmup_runs)
            say(f"host: round {index + 1} of {rounds}")
        for (source, label, _), runtime in zip(jobs, running, strict=True):
            rows[source] = [
                _measured(info.name, _runtime_name(label), tower, runtime.times[tower], threads, warmup_runs, rounds)
                for tower in TOWERS
            ]
    return rows


def _inputs(student_dir: Path) -> dict[str, Any]:
    """Inputs of the student's shapes. Dense towers take the same time whatever the pixels or words are."""
    config = read_config(student_dir)
    size = int(config["preprocess_cfg"]["size"][0])
    length = int(config["model_cfg"]["text_cfg"].get("context_length", 77))
    vocabulary = int(config["model_cfg"]["text_cfg"].get("vocab_size", 49408))
    random = np.random.default_rng(0)
    tokens = random.integers(1, vocabulary - 2, (INPUTS, length), dtype=np.int32)
    tokens[:, -1] = vocabulary - 1
    return {"pixels": random.random((INPUTS, 3, size, size), dtype=np.float32), "tokens": tokens}


def _measured(
    device: str, runtime: str, tower: str, times: list[float], threads: int, warmup_runs: int, rounds: int
) -> LatencyProfile:
    p50, p90, p99 = (round(float(value), 4) for value in np.percentile(times, [50, 90, 99]))
    return LatencyProfile(
        device=device,
        runtime=runtime,
        tower=tower,
        source="measured",
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        threads=threads,
        runs=len(times),
        warmup_runs=warmup_runs,
        rounds=rounds,
        note="this computer's CPU; it does not rank runtimes or precisions for a phone",
    )


def _not_measured(artifacts: dict[Path, list[ExportArtifact]], info: DeviceInfo) -> _Rows:
    return {
        path: [_blank(info.name, get_target(towers[0].target).runtime, tower, info.missing) for tower in TOWERS]
        for path, towers in artifacts.items()
    }


def _blank(device: str, runtime: str, tower: str, reason: str) -> LatencyProfile:
    return LatencyProfile(device=device, runtime=runtime, tower=tower, source="not measured", note=reason)


def _absent(device: str, known: dict[str, DeviceInfo]) -> DeviceInfo:
    reasons = "; ".join(f"{info.name}: {info.missing}" for info in known.values() if not info.ready)
    return DeviceInfo(device, "absent", missing=f"no device {device!r} is attached ({reasons})")


def _runtime_name(label: str) -> str:
    """For example "ONNX Runtime (onnxruntime 1.32.0)"."""
    name, package = (
        ("PyTorch eager", "torch") if label == EAGER else (get_target(label).runtime, get_target(label).package)
    )
    return f"{name} ({package} {importlib.metadata.version(package)})"


def _file_name(device: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in device)

"""Times Core ML packages on this Mac, or on an attached iPhone through coremltools' model runner; which unit takes each operation.

coremltools 9 builds, signs and installs its runner app (`remote_device`) and measures each prediction there
(`MLModelAsyncWrapper`); the compute plan tells where Core ML prefers to run each operation, and its share of the cost. The
wrapper is of an experimental part of coremltools, hence one place for it.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError
from distill.core.progress import Progress
from export.artifacts.precision import PRECISIONS
from export.artifacts.record import ExportArtifact, LatencyProfile
from export.device import DeviceInfo
from export.devices.parts.golden import OUTPUT_COSINE, golden_sample
from export.devices.parts.runners import Timing
from export.devices.parts.steady_state import summed_up
from export.mil.coremltools import import_coremltools
from export.settings import ProfileSettings
from export.target import INPUT_NAMES, get_target

TARGET = "coreml"
UNITS = {"MLNeuralEngineComputeDevice": "Neural Engine", "MLGPUComputeDevice": "GPU", "MLCPUComputeDevice": "CPU"}


def measure_core_ml(
    info: DeviceInfo,
    artifacts: dict[Path, list[ExportArtifact]],
    settings: ProfileSettings,
    progress: Progress,
    *,
    remote: bool,
) -> dict[Path, list[LatencyProfile]]:
    """Time every Core ML folder; other folders get rows with the reason.

    Args:
        remote: whether the device is a phone on a cable, and not this Mac.

    Raises DistillError where Core ML, the runner or the phone fails, with its words.
    """
    rows: dict[Path, list[LatencyProfile]] = {}
    with _in_words(info):
        device = asyncio.run(_prepared(info.name, settings)) if remote else None
        for number, (folder, towers) in enumerate(artifacts.items()):
            if towers[0].target != TARGET:
                reason = f"Core ML runs no files of the target {towers[0].target}"
                rows[folder] = [
                    LatencyProfile(info.name, "Core ML", item.tower, item.precision, "not measured", note=reason)
                    for item in towers
                ]
                continue
            progress(number, len(artifacts), f"{info.name}: {folder.name}")
            rows[folder] = [asyncio.run(_timed(info, device, folder, item, settings)) for item in towers]
    progress(len(artifacts), len(artifacts), f"{info.name}: done")
    return rows


@contextlib.contextmanager
def _in_words(info: DeviceInfo) -> Iterator[None]:
    try:
        yield
    except (DistillError, KeyboardInterrupt):
        raise
    except Exception as error:  # of coremltools, Xcode and the phone: of many classes, which have no other base
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise DistillError(
            f"Timing on {info.model or info.name} failed: {words}. Keep the phone unlocked, open Xcode's Devices window once, and "
            "see that the team in profile.apple_team may sign for it."
        ) from error


async def _prepared(udid: str, settings: ProfileSettings) -> Any:
    """coremltools' handle of the phone, with its model runner built, signed, installed and started."""
    import_coremltools()
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device

    found = next((device for device in Device.get_devices() if device.udid == udid), None)
    if found is None:
        raise DistillError(f"The phone {udid!r} is gone. Plug it in again and look at distill devices.")
    return await found.prepare_for_model_debugging(
        credentials=AppSigningCredentials(development_team=settings.apple_team)
    )


async def _timed(
    info: DeviceInfo, device: Any, folder: Path, item: ExportArtifact, settings: ProfileSettings
) -> LatencyProfile:
    ct = import_coremltools()
    from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper

    target = get_target(item.target, item.precision)
    given, expected = golden_sample(folder, item)
    if given is None:
        raise DistillError(f"{str(folder)!r} holds no golden samples. Export again with export.golden_samples >= 1.")
    inputs = {INPUT_NAMES["text" if item.tower == "text" else "image"]: _as_input(given, item)}
    path = folder / item.file
    model = ct.models.MLModel(str(path), skip_model_load=True)
    wrapper = MLModelAsyncWrapper.from_spec_or_path(
        spec_or_path=model.get_spec(),
        weights_dir=model.weights_dir,
        compute_units=ct.ComputeUnit.ALL,
        function_name=item.tower if item.options.get("multifunction") else None,
        device=device,
    )
    await wrapper.load()
    load_ns = wrapper.load_duration_in_nano_seconds
    cosine = _cosine(await wrapper.predict(inputs, state=None), expected, item)
    rounds = []
    for index in range(settings.rounds):
        share = max(settings.runs // settings.rounds + (index < settings.runs % settings.rounds), 1)
        times = []
        for _ in range(settings.warmup_runs + share):
            await wrapper.predict(inputs, state=None)
            times.append(float(wrapper.last_predict_duration_in_nano_seconds or 0) / 1e6)
        rounds.append(Timing(tuple(times), load_ms=load_ns / 1e6 if load_ns else None))
    await wrapper.unload()
    result = summed_up(rounds, settings)
    return LatencyProfile(
        device=info.name,
        runtime=f"{target.runtime} ({info.os})",
        tower=item.tower,
        precision=target.precision.name,
        source="measured",
        threads=None,
        batch=int(item.options.get("batch", 1)),
        warmup_runs=settings.warmup_runs,
        rounds=settings.rounds,
        note="; ".join([*result.pop("notes"), "the phone's heat is not told by this road"]),
        output_cosine=cosine,
        conditions={"system": info.os, "compute_units": "ALL"},
        operations=await _placed(model, device, inputs),
        **result,
    )


def _as_input(given: Array, item: ExportArtifact) -> Any:
    """What the model takes: an array, or a picture where the file was exported to take one."""
    if given.dtype == np.uint8:
        from PIL import Image

        return Image.fromarray(given[0])
    return given


def _cosine(outputs: dict[str, Any], expected: Array | None, item: ExportArtifact) -> float | None:
    """Of the answer to the golden one. Raises DistillError below the bar."""
    if expected is None:
        return None
    got = np.asarray(next(iter(outputs.values())), np.float32).reshape(-1)
    if got.shape != expected.shape or not np.isfinite(got).all():
        raise DistillError(
            f"{item.file} gives {got.size} numbers there for {expected.size}, or some that are not finite."
        )
    cosine = float(got @ expected / max(float(np.linalg.norm(got) * np.linalg.norm(expected)), 1e-12))
    bar = OUTPUT_COSINE[PRECISIONS[item.precision].closeness]
    if cosine < bar:
        raise DistillError(
            f"{item.file} says something else there than here: cosine {cosine:.4f} to the golden answer, below {bar}."
        )
    return round(cosine, 6)


async def _placed(model: Any, device: Any, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Per kind of operation and unit: how many, and milliseconds as Core ML's compute plan shares them out."""
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    benchmarker = MLModelBenchmarker(model=model, device=device)
    found = await benchmarker.benchmark_operation_execution(inputs=inputs, iterations=3, warmup=True)
    sums: dict[tuple[str, str], list[float]] = {}
    for operation in found:
        usage, statistics = operation.compute_device_usage, operation.measurement.statistics
        if usage is None:  # constants
            continue
        unit = UNITS.get(type(usage.preferred_compute_device).__name__, "another unit")
        sums.setdefault((operation.spec.type, unit), []).append(statistics.median if statistics else 0.0)
    engine = UNITS["MLNeuralEngineComputeDevice"]
    rows = [
        {"name": f"{kind}, {unit}", "delegated": unit == engine, "count": len(ms), "ms": round(sum(ms), 4)}
        for (kind, unit), ms in sums.items()
    ]
    return sorted(rows, key=lambda row: -float(row["ms"]))

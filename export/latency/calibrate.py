"""`calibrate` learns what operations cost on a device that is here, from five architectures that are timed on it.

The anchors have random weights, which do not matter for time: MobileNetV2, RepViT-M1.1, MobileCLIP2's MCi0, ViT-B/32, and text
towers of 12 x 512 and smaller ones, which ride along. They are exported and timed by the same calls as a user's files. What is
learned lies in the user's cache, and beats what is published of the device. Left out: learning from the times
(`export.latency.anchors`).
"""

import time
from pathlib import Path

import numpy as np

from distill.core.clip.folder import is_clip_folder
from distill.core.errors import DistillError, UsageError
from distill.core.packages.environment import cache_folder
from distill.core.progress import Progress, silent
from export.artifacts.record import LatencyProfile
from export.device import list_devices
from export.latency.anchors import ANCHORS, Calibration, keep, learn_anchors
from export.latency.measure import profile
from export.latency.rows import runtime_of
from export.run import export_student
from export.settings import ExportSettings, ProfileSettings
from export.target import chosen_targets
from students.spec import StudentSpec
from students.student import build_student

UNITS = {"coreml": "ANE", "qnn": "HTP"}  # where a runtime's files run; every other one's on the CPU


def calibrate(
    device: str, settings: ProfileSettings, *, target: str = "", name: str = "", progress: Progress = silent
) -> Calibration:
    """Export the anchors, time them on a device that is here, learn from them, and keep that in the user's cache.

    Args:
        device: "host", or another name of `list_devices` that can be timed.
        settings: threads, runs, rounds and runners, as of `profile`.
        target: what is exported, with a precision or without ("onnx", "executorch-xnnpack"); "" = ONNX.
        name: what the profile is kept as; "" = `device`. A phone's name makes it replace what is published of that phone.
        progress: called with the anchors that are done.

    Raises:
        UsageError: no such device or target, or one that cannot be timed.
        DistillError: an anchor that cannot be exported or timed.
    """
    info = next((found for found in list_devices(settings) if found.name == device), None)
    if info is None or not info.ready:
        missing = "it is not here" if info is None else info.missing
        raise UsageError(f"The device {device!r} cannot be calibrated: {missing}. See distill devices.")
    chosen = chosen_targets((target or "onnx",), ())[0]
    if info.kind == "host" and chosen.no_latency:  # which is about this computer, not about a phone
        raise UsageError(f"{chosen.folder} cannot be timed: {chosen.no_latency}.")
    rows: list[tuple[str, LatencyProfile]] = []
    for index, anchor in enumerate(ANCHORS):
        progress(index, len(ANCHORS), f"anchor {anchor}: export")
        folder = _exported(anchor, chosen.folder)
        progress(index, len(ANCHORS), f"anchor {anchor}: time")
        timed = profile([folder], None, settings.model_copy(update={"devices": (device,)}), progress=progress)
        rows += [(anchor, row) for row in timed if row.p50_ms is not None]
    if len(rows) < 2 * len(ANCHORS):
        raise DistillError(
            f"Of {2 * len(ANCHORS)} towers {len(rows)} were timed on {device}; see distill profile's own messages."
        )
    unit = UNITS.get(runtime_of(chosen.name if "qnn" in chosen.name else chosen.runtime), "CPU")
    measured = [(anchor, str(row.tower), float(row.p50_ms or 0)) for anchor, row in rows]
    learned = learn_anchors(measured, chosen.precision.name, unit)
    first = rows[0][1]
    found = Calibration(
        name or device, " ".join(filter(None, [info.model, info.os])), chosen.folder, first.runtime, threads=settings.threads,
        made=time.time(), **learned,
    )  # fmt: skip
    keep(found)
    return found


def _exported(anchor: str, folder: str) -> Path:
    """The anchor's files, made where they are not in the cache already."""
    spec = StudentSpec(f"anchor-{anchor}", ANCHORS[anchor])
    place = cache_folder() / "anchors" / anchor
    student = place / "student"
    built = build_student(spec, 0)
    if not is_clip_folder(student):
        built.save(student, {"licence": "none: random weights", "commercial": True})
    random, size = np.random.default_rng(0), spec.image_size
    pixels = random.random((4, 3, size, size), dtype=np.float32)
    tokens = (
        built.tokenize(["a dog", "a red cup on a table", "night", "two people at the sea"]).numpy().astype(np.int32)
    )
    loose = ExportSettings(
        targets=(folder,), min_cosine=-1, min_cosine_quantized=-1, min_centred_cosine_quantized=-1, golden_samples=1
    )
    export_student(
        student, place / "export", loose, pixels=pixels, tokens=tokens, licence="none", provenance={}, resume=True
    )
    return place / "export" / folder

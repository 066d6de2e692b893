"""Both towers of a model on phones that are not here: what `distill profile --device iphone-15` and the reports show.

Only architectures matter, so that weights are neither read nor needed. Left out: models that are no open_clip configuration
or named architecture.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill.core.errors import DistillError
from export.artifacts.record import LatencyProfile, LatencySource
from export.latency.anchors import Calibration
from export.latency.devices import find_chip
from export.latency.graph.build import clip_operations, operations
from export.latency.graph.features import Operations, known_as, published_features
from export.latency.graph.names import ModelKey
from export.latency.parts import parts
from export.latency.predictor import Predictor, Source
from export.latency.rows import DEFAULT_RUNTIMES, runtime_of

ENCODERS = ("image", "text")
SHOWN = {
    "coreml": "Core ML",
    "qnn": "Qualcomm QNN",
    "ort": "ONNX Runtime with QNN",
    "tflite": "LiteRT with QNN",
    "xnnpack": "XNNPACK",
}
SOURCES: dict[Source, LatencySource] = {
    "measured": "measured (published)", "transferred": "transferred", "measured anchors": "measured anchors",
    "predicted": "predicted", "uncalibrated": "uncalibrated",
}  # fmt: skip
Towers = Mapping[str, Callable[[], Operations]]


def towers_of_config(model_cfg: dict[str, Any]) -> Towers:
    """Both towers of an open_clip configuration; each is traced when it is called."""
    return {tower: functools.partial(clip_operations, model_cfg, tower) for tower in ENCODERS}


def tower_of_key(key: ModelKey) -> Towers:
    """The one tower of a named architecture."""
    return {key.tower: lambda: published_features().get(str(key)) or operations(key)}


def predict_towers(
    towers: Towers,
    devices: Iterable[str],
    predictor: Predictor,
    precisions: Sequence[str] = (),
    calibrated: Mapping[str, Calibration] | None = None,
) -> list[LatencyProfile]:
    """A row per device, tower and precision, whose source is never "measured here".

    Args:
        devices: names that `find_chip` takes.
        calibrated: devices that were calibrated here, by name: they answer before what is published.
        precisions: of the files; none, or one that a phone has not = fp16, or w8a8 where the NPU has no fp16.

    Raises:
        UsageError: an unknown device.
    """
    rows: list[LatencyProfile] = []
    traced: dict[str, Operations | str] = {}
    for tower, get in towers.items():
        try:
            traced[tower] = get()
        except DistillError as error:
            traced[tower] = str(error)
    for device in dict.fromkeys(devices):
        if own := (calibrated or {}).get(device):
            rows += [_by_anchors(own, device, tower, given) for tower, given in traced.items()]
            continue
        chip = find_chip(device)
        usual = "fp16" if chip.fp16 else "w8a8"
        for precision in dict.fromkeys(usual if one in ("fp32", "fp16") else one for one in precisions or [usual]):
            runtime = runtime_of("", chip.unit)
            shown = SHOWN.get(runtime, runtime) if chip.unit in DEFAULT_RUNTIMES else f"{chip.unit}'s own"
            for tower, given in traced.items():
                where = (device, shown, tower, precision)
                if isinstance(given, str):
                    rows.append(LatencyProfile(*where, source="not measured", note=given))
                    continue
                try:
                    said = predictor.predict(device, known_as(given), given, precision=precision)
                except DistillError as error:
                    rows.append(LatencyProfile(*where, source="not measured", note=str(error)))
                    continue
                ms, low, high = (float(f"{value:.3g}") for value in (said.ms, said.low, said.high))
                row = LatencyProfile(*where, source=SOURCES[said.source], note=said.note)
                each = parts(predictor, device, given, precision, ms)
                rows.append(replace(row, predicted_ms=ms, low_ms=low, high_ms=high, operations=each))
    return rows


def _by_anchors(own: Calibration, device: str, tower: str, given: Operations | str) -> LatencyProfile:
    where = (device, own.runtime, tower, own.target.rpartition("-")[2])
    if isinstance(given, str):
        return LatencyProfile(*where, source="not measured", note=given)
    ms, low, high = (float(f"{value:.3g}") for value in own.predict(given))
    note = f"calibrated {time.strftime('%Y-%m-%d', time.localtime(own.made))} on {own.model}, {own.threads} threads, {own.target}"
    row = LatencyProfile(*where, source="measured anchors", note=note, threads=own.threads)
    return replace(row, predicted_ms=ms, low_ms=low, high_ms=high)

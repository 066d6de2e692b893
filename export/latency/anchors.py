"""What a device here was found to cost, kept in the user's cache: five anchor architectures, and what is learned of their times.

Left out: exporting and timing the anchors (`export.latency.calibrate`).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.core import atomic
from distill.core.packages.environment import cache_folder
from export.latency.fit.learn import Kind
from export.latency.fit.roofline import OPERAND_BYTES, as_values, faster, fit, latency, of_values, widths
from export.latency.graph.build import clip_operations
from export.latency.graph.features import Operations, Pack, pack
from export.latency.predictor import published_predictor

FORMAT = 1
FREE = 1.5  # a calibrated device's speed lies within a factor of e^1.5 of its kind's before anything is measured
TOWARDS = 1.0  # how far its parameters may go from its kind's, in the priors' own widths
LEAST = 0.10  # a half-width that an interval has at least, in logarithms: what one measurement differs from the next
NORMAL_90 = 1.645


def _text(layers: int, width: int) -> dict[str, Any]:
    return {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": layers}


def _timm(name: str, size: int) -> dict[str, Any]:
    return {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": size,
    }


# Name -> open_clip configuration. Each file has two towers, so that nine towers are timed.
ANCHORS: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"embed_dim": 512, "vision_cfg": _timm("mobilenetv2_100", 224), "text_cfg": _text(12, 512)},
    "repvit-m1.1": {"embed_dim": 256, "vision_cfg": _timm("repvit_m1_1", 224), "text_cfg": _text(6, 256)},
    "mci0": {"embed_dim": 512, "vision_cfg": _timm("fastvit_mci0", 256), "text_cfg": _text(4, 384)},
    "vit-b-32": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": _text(2, 128),
    },
}


@functools.cache
def anchor_operations(anchor: str, tower: str) -> Operations:
    """Operations of an anchor's "image" or "text" tower."""
    return clip_operations(ANCHORS[anchor], tower)


@dataclass(frozen=True)
class Calibration:
    """What a device was found to cost.

    Attributes:
        name: what `--device` calls it.
        model: processor or phone, and its system.
        target: the exported files that were timed, such as "onnx-fp32".
        runtime: with its version.
        unit, precision: of the kind that it was learned from.
        threads: of the runtime.
        costs: parameters of the roofline, by name.
        spread: of held-out anchors' latencies around their predictions: 1.645 of it is half a 90 % interval, in logarithms.
        anchors: (anchor, tower, measured ms, ms predicted without it).
        made: seconds since 1970.
    """

    name: str
    model: str
    target: str
    runtime: str
    unit: str
    precision: str
    threads: int
    costs: dict[str, float]
    spread: float
    anchors: tuple[tuple[str, str, float, float], ...]
    made: float
    format: int = FORMAT

    def predict(self, operations: Operations) -> tuple[float, float, float]:
        """Milliseconds of a tower, and the ends of its 90 % interval."""
        ms = float(latency(of_values(self.costs), pack([operations]), self.precision)[0])
        factor = math.exp(NORMAL_90 * self.spread)
        return ms, ms / factor, ms * factor


def learn_anchors(measured: Sequence[tuple[str, str, float]], precision: str, unit: str = "CPU") -> dict[str, Any]:
    """Costs from (anchor, tower, ms) rows, how far held-out anchors lie from predictions, and those predictions.

    Args:
        precision: of the files; fp16 and fp32 of a CPU are learned alike.
        unit: whose common costs the fit starts from.
    """
    kinds = published_predictor().kinds
    wanted = precision if precision in OPERAND_BYTES else "fp32"
    kind: Kind = kinds.get((unit, wanted)) or kinds[unit, "fp32"]
    models = pack([anchor_operations(anchor, tower) for anchor, tower, _ in measured])
    log_ms = torch.tensor([ms for _, _, ms in measured], dtype=torch.float64).log()
    names = [anchor for anchor, _, _ in measured]
    errors, said = [], [0.0] * len(measured)
    for anchor in dict.fromkeys(names):
        seen = torch.tensor([index for index, name in enumerate(names) if name != anchor])
        costs = _costs(models, seen, log_ms, kind)
        held = latency(costs, models, kind.precision)
        for index, name in enumerate(names):
            if name == anchor:
                said[index] = float(held[index])
                errors.append(float(held[index].log() - log_ms[index]))
    # All but the worst lie inside the interval: one call beside which another program worked must not widen all of them.
    spread = max(LEAST, sorted(map(abs, errors))[-2 if len(errors) > 4 else -1]) / NORMAL_90
    return {
        "unit": unit,
        "precision": kind.precision,
        "costs": as_values(_costs(models, torch.arange(len(measured)), log_ms, kind)),
        "spread": spread,
        "anchors": tuple((*row, round(ms, 4)) for row, ms in zip(measured, said, strict=True)),
    }


def _costs(models: Pack, seen: Tensor, log_ms: Tensor, kind: Kind) -> Tensor:
    """The fit to some of the anchors: first how fast the device is as a whole, then what tells it from its kind."""
    zero = torch.zeros(len(seen), dtype=torch.long)
    _, factors = fit(
        models, seen, zero, log_ms[seen], kind.precision, kind.common, widths(0.1), spread=FREE, iterations=40
    )
    centre = faster(kind.common, float((-factors[0]).exp()))
    return fit(models, seen, zero, log_ms[seen], kind.precision, centre, widths(TOWARDS), iterations=80)[0]


def keep(found: Calibration) -> Path:
    """Write it to the user's cache, in the place of an earlier one of the same device and files."""
    file = _file(found.name, found.target)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(file, asdict(found))
    return file


def _file(name: str, target: str) -> Path:
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in f"{name}-{target}")
    return cache_folder() / "latency" / f"{safe}.json"


def calibrations() -> list[Calibration]:
    """What was calibrated on this computer, the newest first; files that cannot be read are left out."""
    found = []
    for file in (cache_folder() / "latency").glob("*.json"):
        try:
            value: Mapping[str, Any] = atomic.read_json(file)
            if value.get("format") == FORMAT:
                anchors = tuple((str(a), str(t), float(m), float(p)) for a, t, m, p in value["anchors"])
                found.append(Calibration(**{**value, "anchors": anchors}))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return sorted(found, key=lambda one: -one.made)

"""What each layer of a student loses when it alone is quantized: which of them a mixed file keeps in floats, and in what order.

Weights (and, where a precision has them, a layer's inputs) are rounded in torch as the targets round them, one layer at a time, on
a few real inputs. That ranks layers; whether a file holds its budget is measured on the file. Left out: making files.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.core.arrays import Array
    from export.artifacts.record import Tower

SMALLEST = 2048  # numbers of a weight that all targets compress
SAMPLES = 8  # inputs per tower; the ranking settles with few
ROWS = 16  # of a palette of 16 values
# Shares of the summed losses that are kept away: each next file is larger and loses less.
COVERED = (0.5, 0.75, 0.9, 0.97)
BITS = {"p4": 4, "p6": 6, "w8a8": 8, "w8a8-dynamic": 8, "w8": 8, "p8": 8, "w8a16": 8, "fp16": 16, "fp32": 32}


@dataclass(frozen=True)
class LayerLoss:
    """One layer.

    Attributes:
        tower: whose it is.
        name: of its weight, as in the exported program.
        numbers: in that weight.
        lost: of the mean-centred cosine, 1 less its mean over the samples, when this layer alone is quantized.
    """

    tower: "Tower"
    name: str
    numbers: int
    lost: float


def layer_losses(
    module: "nn.Module", tower: "Tower", precision: str, inputs: "Tensor", calibration: "Tensor | None" = None
) -> list[LayerLoss]:
    """The loss of each layer of a tower alone.

    Args:
        module: a deployable tower, which is left as it was.
        inputs: [n, ...] as it takes them, of which the first few are used.
        calibration: other inputs, for scales that are learned; None = `inputs`.
    """
    import torch

    inputs = inputs[:SAMPLES]
    learned = inputs if calibration is None else calibration[:SAMPLES]
    with torch.no_grad():
        eager = module(inputs).double()
        found = []
        for name, weight, owner in _weights(module):
            kept = weight.detach().clone()
            table = type(owner).__name__ == "Embedding"
            hook = _input_rounding(module, owner, precision, learned) if owner is not None and not table else None
            weight.copy_(rounded_weight(kept, precision, axis=0 if owner is not None else 1))
            lost = 1 - _agreement(module(inputs).double(), eager)
            weight.copy_(kept)
            if hook is not None:
                hook.remove()
            found.append(LayerLoss(tower, name, weight.numel(), max(lost, 0.0)))
    return found


def rounded_weight(weight: "Tensor", precision: str, axis: int) -> "Tensor":
    """The weight as a file at `precision` holds it. `axis`: of its output channels."""
    import torch

    from export.targets.parts.coreml_weights import palette

    if precision in ("p8", "p6", "p4"):
        rows = weight.movedim(axis, 0)
        step = ROWS if precision == "p4" and len(rows) % ROWS == 0 else len(rows)
        parts = []
        for part in torch.split(rows, step):
            table, place = palette(part.numpy().astype(np.float16), BITS[precision])
            parts.append(torch.from_numpy(table[place].astype(np.float32).reshape(part.shape)))
        return torch.cat(parts).movedim(0, axis)
    others = [at for at in range(weight.dim()) if at != axis]
    scale = weight.abs().amax(others, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale


def chosen(losses: list[LayerLoss], share: float) -> list[LayerLoss]:
    """The fewest numbers, taken greedily by loss per number, whose layers make up `share` of the summed losses."""
    whole, covered, kept = sum(layer.lost for layer in losses), 0.0, []
    for layer in sorted(losses, key=lambda layer: -layer.lost / layer.numbers):
        if covered >= share * whole or layer.lost <= 0:
            break
        kept.append(layer)
        covered += layer.lost
    return kept


def steps(losses: list[LayerLoss], precision: str, float_bits: int) -> Iterator[tuple[list[LayerLoss], float]]:
    """What to keep, step by step, with the bits per weight that follow; as long as that saves something over floats.

    Args:
        float_bits: of a number in a layer that is kept.
    """
    whole, before = sum(layer.numbers for layer in losses), 0
    for share in COVERED:
        kept = chosen(losses, share)
        part = sum(layer.numbers for layer in kept) / max(whole, 1)
        bits = BITS[precision] * (1 - part) + float_bits * part
        if len(kept) > before and part < 0.9:
            before = len(kept)
            yield kept, bits


def measure(
    student_dir: Path,
    precision: str,
    inputs: "tuple[Array, Array | None]",
    calibration: "tuple[Array, Array | None] | None",
) -> list[LayerLoss]:
    """The losses of both towers' layers. `inputs`, `calibration`: pixels and tokens, as parity and calibration have them."""
    import torch

    from export.artifacts.record import PAIR
    from export.towers.tower import deployable_towers
    from students.student import load_student

    found = []
    towers = deployable_towers(load_student(student_dir))
    for at, (tower, module) in enumerate(zip(PAIR, towers, strict=True)):
        given, others = inputs[at], None if calibration is None else calibration[at]
        assert given is not None  # a model without a text tower has no automatic precision
        learned = None if others is None else torch.from_numpy(others[:SAMPLES])
        found += layer_losses(module, tower, precision, torch.from_numpy(given[:SAMPLES]), learned)
    return found


def _weights(module: "nn.Module") -> "Iterator[tuple[str, Tensor, nn.Module | None]]":
    """Name, weight and layer of what targets quantize; no layer of a plain matrix."""
    from torch import nn

    owners = {f"{name}.weight": part for name, part in module.named_modules()
              if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Embedding)}  # fmt: skip
    for name, weight in module.named_parameters():
        if weight.numel() < SMALLEST:
            continue
        if name in owners:
            yield name, weight, owners[name]
        elif weight.dim() == 2 and "pos" not in name:  # positions are added, not multiplied with
            yield name, weight, None


def _input_rounding(module: "nn.Module", layer: "nn.Module", precision: str, learned: "Tensor") -> Any:
    """Let `layer` read its input in int8 (or int16), with a scale of this call or of the inputs `learned`; the hook, or None."""
    import torch

    if not precision.startswith("w8a"):
        return None
    if precision == "w8a8-dynamic" and not isinstance(layer, torch.nn.Linear):
        return None
    steps = 65535 if precision == "w8a16" else 255
    ends: list[float] = []

    def look(_: Any, given: "tuple[Tensor, ...]") -> None:
        ends[:] = [min(float(given[0].min()), 0.0), max(float(given[0].max()), 0.0)]

    if precision != "w8a8-dynamic":
        looking = layer.register_forward_pre_hook(look)
        module(learned)
        looking.remove()

    def rounding(_: Any, given: "tuple[Tensor, ...]") -> "tuple[Tensor, ...]":
        x, *rest = given
        if precision == "w8a8-dynamic":
            look(_, given)
        low, high = ends
        scale = max((high - low) / steps, 1e-12)
        return (((x.clamp(low, high) - low) / scale).round() * scale + low, *rest)

    return layer.register_forward_pre_hook(rounding)


def _agreement(got: "Tensor", eager: "Tensor") -> float:
    """The mean cosine after the eager mean is taken off both; plain where that leaves nothing."""
    import torch

    mean = eager.mean(0)
    if float((eager - mean).norm(dim=1).mean()) < 1e-6:
        mean = torch.zeros_like(mean)
    value = torch.nn.functional.cosine_similarity(got - mean, eager - mean, dim=1).mean()
    return float(torch.nan_to_num(value, nan=-1.0))


Measure = Callable[[str], list[LayerLoss]]

"""`repair`: an inherited student's linear layers make up for the inputs that slicing took from them.

A linear layer W x + b of the source loses the inputs that the plan does not keep. *Bias compensation* puts what they gave on
average into the bias; *least squares* moves W and b so that the kept inputs predict the whole output best, by ridge
regression in closed form. Both look at what the source's layers read on calibration pairs. A ResNet gets new statistics of
its normalisations instead: means, or variances too (`students.inherit.resnets.recalibrate`). Left out: layers that read the
residual stream of towers that normalise behind their parts, attention by factors, and projections.
"""

from typing import Any

import torch
from torch import Tensor

from distill.core.clip.weights import ClipWeights
from students.inherit.apply import channel_indices
from students.inherit.calibration import Calibration
from students.inherit.plan import InheritancePlan, TowerPlan
from students.inherit.repairs.moments import Moments, moments
from students.inherit.resnets.plan import ResNetPlan
from students.inherit.resnets.recalibrate import recalibrate
from students.inherit.resnets.tower import resnet_of
from students.inherit.towers.tower import State, Tower, tower_of, tower_of_config

REPAIRS = ("bias", "least-squares")
RIDGE = 1e-2  # times the mean variance of the inputs
READS = {
    "q": "norm1",
    "k": "norm1",
    "v": "norm1",
    "up": "norm2",
    "out": "out",
    "down": "down",
}  # layer -> what it reads


def repair(
    how: str,
    plan: InheritancePlan,
    source: ClipWeights,
    model_cfg: dict[str, Any],
    state: State,
    calibration: Calibration,
) -> State:
    """The inherited tensors, repaired.

    Args:
        how: "bias" or "least-squares".
        plan, source, model_cfg: as of `students.inherit.apply.apply_plan`, which made `state`.
        state: the student's inherited tensors; left as it is.
        calibration: what the source is run on.
    """
    result = {name: value.clone() for name, value in state.items()}
    for which, tower_plan in plan.towers.items():
        if isinstance(tower_plan, ResNetPlan):
            if _cuts(tower_plan, source):
                result |= recalibrate(source, model_cfg, result, calibration, variances=how == "least-squares")
            continue
        old, new = tower_of(source, which), tower_of_config(model_cfg, which)
        seen = moments(source, which, old, tower_plan.layers, calibration, second=how == "least-squares")
        for index, layer in enumerate(tower_plan.layers):
            for name, read in READS.items():
                if (read.startswith("norm") and not old.norm_first) or (
                    tower_plan.factors and name in ("q", "k", "v", "out")
                ):
                    continue
                kept = _inputs(tower_plan, index, name, old)
                if len(kept) < len(seen[read, layer].mean):
                    _mend(
                        how, _Linear(tower_plan, old, new, source.state, index, name), kept, seen[read, layer], result
                    )
    return result


def _cuts(plan: ResNetPlan, source: ClipWeights) -> bool:
    """Whether a plan leaves out any channel or block."""
    tower = resnet_of(source)
    assert tower is not None
    return any(len(kept) < tower.sizes[plan.source_axis(axis)] for axis, kept in plan.cuts.items()) or any(
        len(kept) < depth for kept, depth in zip(plan.blocks, tower.depths, strict=True)
    )


def _inputs(plan: TowerPlan, index: int, name: str, old: Tower) -> list[int]:
    """The source's input channels that a student's layer keeps."""
    if name == "out":
        return channel_indices(plan, index, old.head_width)
    return plan.ffn[index] if name == "down" else plan.hidden


class _Linear:
    """One linear layer of a block, in source and student.

    Attributes:
        weight: [kept outputs, all inputs], of the source.
        factor: what the student's values are multiplied by, [outputs] or a number.
    """

    def __init__(self, plan: TowerPlan, old: Tower, new: Tower, state: State, index: int, name: str) -> None:
        self.new, self.role = new, f"blocks.{index}.{name}"
        start = f"blocks.{plan.layers[index]}."
        value = old.read(state, f"{start}{name}.weight")
        assert value is not None
        rows = (
            channel_indices(plan, index, old.head_width)
            if name in "qkv"
            else plan.ffn[index]
            if name == "up"
            else plan.hidden
        )
        self.weight = value.double()[torch.tensor(rows, dtype=torch.long)]
        folded = {"out": "scale1", "down": "scale2"}.get(name, "")
        scale = (
            old.read(state, start + folded)
            if folded and f"{self.role.rpartition('.')[0]}.{folded}" not in new.places
            else None
        )
        self.factor = torch.ones(()) if scale is None else scale.double()[torch.tensor(plan.hidden)][:, None]

    def put(self, state: State, kind: str, change: Any) -> None:
        """Replace the student's weight, or add to its bias, inside its (perhaps stacked) tensor."""
        place = self.new.places.get(f"{self.role}.{kind}")
        if place is None:
            return
        value = state[place.name]
        part = value.chunk(place.parts)[place.part]
        part.copy_(part + change.to(value.dtype) if kind == "bias" else change.to(value.dtype))


def _mend(how: str, linear: _Linear, kept: list[int], seen: Moments, state: State) -> None:
    index = torch.tensor(kept, dtype=torch.long)
    mean = seen.mean
    old = linear.weight[:, index]
    if how == "bias":
        lost = linear.weight @ mean - old @ mean[index]
    else:
        covariance = seen.covariance
        own = covariance[index][:, index]
        ridge = RIDGE * own.diagonal().mean().clamp(min=1e-12) * torch.eye(len(kept), dtype=own.dtype)
        # The ridge pulls towards the weights as they are sliced, so that many inputs and few pairs change little.
        target = linear.weight @ covariance[:, index] + old @ ridge
        new: Tensor = torch.linalg.solve(own + ridge, target.T).T
        lost = linear.weight @ mean - new @ mean[index]
        linear.put(state, "weight", new * linear.factor)
    linear.put(state, "bias", (lost * linear.factor.flatten()).float())

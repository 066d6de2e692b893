"""Making plans of ResNets, and slicing by them."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.core.errors import UsageError
from students.inherit.resnets.plan import RESIZED, STAGES, ResNetPlan
from students.inherit.resnets.tower import EMBED, HEADS, POSITIONS, ResNetTower

Pick = Callable[[int, int, Tensor], list[int]]


def refuse_growth(old: ResNetTower, new: ResNetTower) -> None:
    """Raise UsageError, with the reason, where no selection of the source's weights makes the student's tower."""
    for stage, before, after in zip(STAGES, old.depths, new.depths, strict=True):
        if after > before:
            raise UsageError(f"stage {stage} grows from {before} blocks to {after}; inheritance only selects")
    if new.head_width != old.head_width:
        raise UsageError(f"heads are {old.head_width} wide in the source, {new.head_width} here")
    for axis in ("stem.1", "stem", HEADS):
        if new.sizes[axis] > old.sizes[axis]:
            raise UsageError(f"{axis} grows from {old.sizes[axis]} to {new.sizes[axis]}; inheritance only selects")


def plan_resnet(
    old: ResNetTower,
    new: ResNetTower,
    blocks: list[list[int]],
    scores: dict[str, Tensor],
    pick: Pick,
    embed: list[int] | None,
) -> ResNetPlan:
    """The plan by which `new` is cut from `old`.

    Args:
        blocks: per stage, the source's blocks that are kept.
        scores: axis of the source -> the worth of each index.
        pick: (n, k, scores) -> which k of n to keep.
        embed: channels of the embedding, shared with the text tower; None = the projection is not inherited.
    """
    same = old.grid == new.grid
    positions: list[int] | Literal["interpolate"] = list(range(new.positions)) if same else RESIZED
    plan = ResNetPlan(blocks, {}, positions, embed)
    for axis, size in new.sizes.items():
        if axis != EMBED:
            source = plan.source_axis(axis)
            plan.cuts[axis] = pick(old.sizes[source], size, scores[source])
    return plan


def refuse_other_resnet(plan: ResNetPlan, old: ResNetTower, new: ResNetTower) -> None:
    """Raise UsageError where a plan names what the source does not have, or lacks what the student needs."""
    for stage, kept, before, after in zip(STAGES, plan.blocks, old.depths, new.depths, strict=True):
        if max(kept) >= before:
            raise UsageError(
                f"The plan takes block {max(kept)} of stage {stage} of the source's image tower, which has {before}."
            )
        if len(kept) != after:
            raise UsageError(f"The plan keeps {len(kept)} blocks in stage {stage}, and the student has {after}.")
    for axis, size in new.sizes.items():
        if axis == EMBED and plan.embed is None:
            continue
        if axis != EMBED and axis not in plan.cuts:
            raise UsageError(f"The plan has no cut of the axis {axis!r} of the image tower.")
        kept, before = plan.indices(axis) or [], old.sizes[plan.source_axis(axis)]
        if len(kept) != size:
            raise UsageError(
                f"The plan keeps {len(kept)} indices on the axis {axis} of the image tower; the student has {size}."
            )
        if kept and max(kept) >= before:
            raise UsageError(
                f"The plan takes index {max(kept)} on the axis {axis} of the source's image tower, which has {before}."
            )


def slice_resnet(plan: ResNetPlan, old: ResNetTower, new: ResNetTower, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name -> tensor, of every tensor of the student's tower that is inherited; statistics of normalisations too.

    Args:
        plan: fits both (`refuse_other_resnet`).
        old, new: the tower in source and student.
        state: the source's tensors.
    """
    result = {}
    for name, axes in new.axes.items():
        if EMBED in axes and plan.embed is None:
            continue
        value = state[_source_name(plan, name)]
        for side, axis in enumerate(axes):
            if axis is not None and not (axis == POSITIONS and plan.positions == RESIZED):
                value = value.index_select(side, torch.tensor(_channels(plan, axis, old), device=value.device))
        if POSITIONS in axes and plan.positions == RESIZED:
            value = resize_grid(value, 1, new.grid)
        result[name] = value
    return result


def _source_name(plan: ResNetPlan, name: str) -> str:
    """The source's name of a student's tensor."""
    parts = name.split(".")
    if parts[1].startswith("layer"):
        parts[2] = str(plan.blocks[int(parts[1].removeprefix("layer")) - 1][int(parts[2])])
    return ".".join(parts)


def _channels(plan: ResNetPlan, axis: str, old: ResNetTower) -> list[int]:
    """The source's indices along a side of a tensor."""
    if axis == POSITIONS:
        return [int(i) for i in plan.positions]
    kept = plan.indices(axis) or []
    if axis != HEADS:
        return kept
    return [head * old.head_width + channel for head in kept for channel in range(old.head_width)]


def resize_grid(positions: Tensor, extra: int, side: int) -> Tensor:
    """[extra + n, width], of a square grid -> [extra + side x side, width], bicubic; the first `extra` rows stay."""
    first, grid = positions[:extra], positions[extra:]
    before = math.isqrt(len(grid))
    square = grid.float().T.reshape(1, -1, before, before)
    resized = F.interpolate(square, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first.float(), resized.flatten(2)[0].T])


def sizes_between(old: ResNetTower, new: ResNetTower, keep: float) -> dict[str, Any]:
    """A ResNet that keeps a share of the source's blocks and channels, in the words of open_clip's configuration.

    Whole heads pool, and no size is smaller than the student's.
    """
    step = max(2, new.head_width // SHARE)
    width = max(new.width, round(keep * old.width / step) * step)
    layers = [max(after, round(keep * before)) for before, after in zip(old.depths, new.depths, strict=True)]
    return {"layers": layers, "width": min(width, old.width)}


SHARE = 32  # channels of the last stage per channel of the stem

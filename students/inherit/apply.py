"""Slicing a source's tensors by a plan: one function for every layout."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.plan import INTERPOLATE, OWN, InheritancePlan, TowerPlan
from students.inherit.resnets.plan import ResNetPlan
from students.inherit.resnets.slicing import refuse_other_resnet, resize_grid, slice_resnet
from students.inherit.resnets.tower import resnet_of, resnet_of_config
from students.inherit.towers.factors import narrow_heads
from students.inherit.towers.layouts import AXES
from students.inherit.towers.tower import State, Tower, tower_of, tower_of_config

ATTENTION = ("q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias", "out.weight")


def apply_plan(
    plan: InheritancePlan, source: ClipWeights, model_cfg: dict[str, Any], own: State | None = None
) -> State:
    """The student's inherited tensors (fp32), a subset of its state dict: load with `strict=False`.

    Args:
        plan: what comes from where.
        source: the weights that the plan was made for.
        model_cfg: the student's open_clip configuration.
        own: the student's state dict, for tensors that are inherited in part (rows that the plan calls `OWN`).

    Raises:
        UsageError: the plan was made for other weights, or does not fit source or student; it names the tower and the axis.
    """
    if plan.source_sha256 != source.sha256:
        raise UsageError(
            f"The plan was made for other weights of {plan.source!r} (sha256 {plan.source_sha256[:12]}, here "
            f"{source.sha256[:12]}): make it again, or name the model that it was made for as student.inherit_from."
        )
    result: State = {}
    for which, tower_plan in plan.towers.items():
        if isinstance(tower_plan, ResNetPlan):
            result |= _resnet(tower_plan, source, model_cfg)
            continue
        old, new = tower_of(source, which), tower_of_config(model_cfg, which)
        refuse_misfit(tower_plan, old)
        result |= _Slicer(tower_plan, old, new, source.state, own).run()
    if len(plan.towers) == 2:
        result |= {name: source.state[name] for name in ("logit_scale", "logit_bias") if name in source.state}
    return {name: value.detach().float().clone().contiguous() for name, value in result.items()}


def _resnet(plan: ResNetPlan, source: ClipWeights, model_cfg: dict[str, Any]) -> State:
    """The image tower's tensors. Raises UsageError where either model has no ResNet, or the plan does not fit."""
    old, new = resnet_of(source), resnet_of_config(model_cfg)
    if old is None or new is None:
        whose = "the source's" if old is None else "the student's"
        raise UsageError(f"The plan is one of a ResNet, and {whose} image tower is none that open_clip has.")
    refuse_other_resnet(plan, old, new)
    return slice_resnet(plan, old, new, source.state)


def refuse_misfit(plan: TowerPlan, tower: Tower) -> None:
    """Raise UsageError where a plan names an index that the source tower does not have."""
    bounds: tuple[tuple[str, Any, int], ...] = (
        ("layers", plan.layers, tower.layers),
        ("hidden", plan.hidden, tower.width),
        ("embed", plan.embed or [], tower.embed),
        ("vocab", plan.vocab or [], tower.vocab),
        ("positions", [] if plan.positions == INTERPOLATE else plan.positions, tower.positions),
        *((f"heads[{i}]", kept, tower.heads) for i, kept in enumerate(plan.heads)),
        *((f"ffn[{i}]", kept, tower.ffn) for i, kept in enumerate(plan.ffn)),
    )
    for axis, indices, size in bounds:
        if indices and max(indices) >= size:
            raise UsageError(
                f"The plan takes index {max(indices)} on the axis {axis} of the source's {tower.which} tower, which has {size}."
            )


class _Slicer:
    """One tower's slicing.

    Args:
        plan: of the tower.
        old, new: the tower in source and student.
        state: the source's tensors.
        own: the student's.
    """

    def __init__(self, plan: TowerPlan, old: Tower, new: Tower, state: State, own: State | None) -> None:
        self.plan, self.old, self.new, self.state, self.own = plan, old, new, state, own
        self.factored: dict[int, dict[str, Tensor]] = {}
        joined = max(1, plan.head_width // old.head_width)
        # A student divides q k by the root of its own head width, and a head that joins several adds their products.
        self.q_factor = (
            1.0 if plan.head_width == old.head_width else math.sqrt(plan.head_width / old.head_width) / joined
        )

    def run(self) -> State:
        """Name -> tensor, of every tensor of the student's tower that the source has a part for."""
        parts: dict[str, dict[int, Tensor]] = {}
        for role, place in self.new.places.items():
            value = self._role(role)
            if value is not None:
                parts.setdefault(place.name, {})[place.part] = value.T if place.transposed else value
        counts = {place.name: place.parts for place in self.new.places.values()}
        result = {}
        for name, pieces in parts.items():
            if len(pieces) == counts[name]:
                result[name] = torch.cat([pieces[i] for i in range(counts[name])]) if counts[name] > 1 else pieces[0]
        return result

    def _role(self, role: str) -> Tensor | None:
        """The student's tensor of a role; None where it is not inherited."""
        layer, kind = None, role
        if role.startswith("blocks."):
            _, number, kind = role.split(".", 2)
            layer = int(number)
            if layer >= len(self.plan.layers):
                return None
        if layer is not None and self.plan.factors and kind in ATTENTION:
            value: Tensor | None = self._narrowed(layer)[kind]
        else:
            value = self._cut(kind, layer)
        if value is None:
            return None
        if kind in ("q.weight", "q.bias"):
            value = value * self.q_factor
        if kind == "patch.weight":
            value = resize_patches(value, self.new.patch)
        return self._shaped(value, role, kind)

    def _narrowed(self, layer: int) -> dict[str, Tensor]:
        """The attention of a student's layer by factors of the heads that are kept."""
        if layer not in self.factored:
            parts = {kind: self._cut(kind, layer) for kind in ATTENTION}
            whole = {kind: value for kind, value in parts.items() if value is not None}
            size, count = self.old.head_width, len(self.plan.heads[layer])
            heads = [slice(i * size, (i + 1) * size) for i in range(count)]
            q, k, v = ((whole[f"{name}.weight"], whole[f"{name}.bias"]) for name in "qkv")
            self.factored[layer] = narrow_heads(q, k, v, whole["out.weight"], heads, self.plan.head_width)
        return self.factored[layer]

    def _cut(self, kind: str, layer: int | None) -> Tensor | None:
        """The source's tensor of a role along the plan's indices; None where it is not inherited."""
        value = self._source_value(kind, layer)
        if value is None:
            return None
        if kind == "positions" and self.plan.positions == INTERPOLATE:
            value = self._interpolated(value[:, torch.tensor(self.plan.hidden)])
        else:
            for axis, cut in enumerate(AXES[kind]):
                indices = self._indices(cut, layer)
                if indices is not None:
                    if indices and max(indices) == OWN:
                        return None
                    value = _taken(value, axis, indices)
        return value

    def _source_value(self, kind: str, layer: int | None) -> Tensor | None:
        """The source's tensor of a role. What the source lacks and a neutral value stands for exactly is that value."""
        start = "" if layer is None else f"blocks.{self.plan.layers[layer]}."
        value = self.old.read(self.state, start + kind)
        if kind.startswith("projection") and self.plan.embed is None:
            return None
        if layer is None:
            if kind == "positions" and value is not None and "patch.bias" not in self.new.places:
                value = self._with_patch_bias(value)
            return value
        if value is None:
            widths = dict.fromkeys("qkv", self.old.heads * self.old.head_width) | {"up": self.old.ffn}
            width = widths.get(kind.split(".")[0], self.old.width)
            return (
                torch.ones(width)
                if kind.startswith("scale")
                else torch.zeros(width)
                if kind.endswith(".bias")
                else None
            )
        folded = {"out": "scale1", "down": "scale2"}.get(kind.split(".")[0])
        if folded and f"blocks.0.{folded}" in self.old.places and f"blocks.0.{folded}" not in self.new.places:
            scale = self.old.read(self.state, start + folded)
            assert scale is not None
            value = value * (scale[:, None] if value.ndim == 2 else scale)
        return value

    def _with_patch_bias(self, positions: Tensor) -> Tensor:
        """The source's positions with its patch bias added to those of patches, for a student that has no such bias."""
        bias = self.old.read(self.state, "patch.bias")
        if bias is None:
            return positions
        moved = positions.clone()
        moved[self.old.extra :] += bias
        return moved

    def _indices(self, cut: str | None, layer: int | None) -> list[int] | None:
        """The source indices along one axis, None = all of them."""
        plan = self.plan
        if cut == "channels":
            assert layer is not None
            return channel_indices(plan, layer, self.old.head_width)
        if cut == "ffn":
            assert layer is not None
            return plan.ffn[layer]
        found: list[int] | None = {"hidden": plan.hidden, "embed": plan.embed, "vocab": plan.vocab}.get(cut or "")
        if cut == "positions":
            assert plan.positions != INTERPOLATE
            return list(plan.positions)
        return found

    def _interpolated(self, positions: Tensor) -> Tensor:
        """[n, width] of the source's grid -> the student's, bicubic; the class position stays, and is OWN without one."""
        size = math.isqrt(self.new.positions - self.new.extra)
        if self.new.extra in (0, self.old.extra):
            return resize_grid(positions[self.old.extra - self.new.extra :], self.new.extra, size)
        own = torch.full((self.new.extra, positions.shape[1]), math.nan)
        return torch.cat([own, resize_grid(positions[self.old.extra :], 0, size)])

    def _shaped(self, value: Tensor, role: str, kind: str) -> Tensor | None:
        """The value in the student's shape, own rows filled in; None for a part that is inherited at equal size only."""
        expected = self.new.shapes[role]
        if kind in ("class", "positions") and value.numel() == math.prod(expected):
            value = value.reshape(expected)
        if "same" in AXES[kind] and list(value.shape) != expected:
            return None
        missing = value.isnan() if value.is_floating_point() and kind in ("tokens", "positions") else None
        if missing is not None and bool(missing.any()):
            place = self.new.places[role]
            if self.own is None:
                raise UsageError(
                    f"The plan leaves rows of {place.name} to the student, whose own weights are needed for them."
                )
            value = torch.where(missing, self.own[place.name].to(value.device).reshape(expected), value)
        return value


def _taken(value: Tensor, axis: int, indices: list[int]) -> Tensor:
    """value cut along an axis; rows that the plan calls OWN are not a number, for `_Slicer._shaped` to fill in."""
    index = torch.tensor(indices, dtype=torch.long, device=value.device)
    result = value.index_select(axis, index.clamp(min=0))
    if axis == 0 and OWN in indices:
        result = result.float().clone()
        result[index == OWN] = math.nan
    return result


def channel_indices(plan: TowerPlan, layer: int, head_width: int) -> list[int]:
    """The source's attention channels that a student layer keeps, in the student's order; q, k and v of a head travel together."""
    heads = plan.heads[layer]
    if plan.channels is None:
        return [head * head_width + channel for head in heads for channel in range(head_width)]
    kept = plan.channels[layer]
    return [head * head_width + channel for head, inside in zip(heads, kept, strict=True) for channel in inside]


def resize_patches(weight: Tensor, size: int) -> Tensor:
    """Patch embedding of another patch size: [width, 3, p, p] -> [width, 3, size, size].

    By the pseudo-inverse of resizing patches (bicubic) (FlexiViT, Beyer et al. 2023, arXiv 2212.08013, section 3.4): on
    patches that were enlarged, the result gives what the weight gave before.
    """
    old = weight.shape[-1]
    if old == size:
        return weight
    unit = torch.eye(old * old, device=weight.device).reshape(old * old, 1, old, old)
    matrix = F.interpolate(unit, (size, size), mode="bicubic", antialias=True, align_corners=False).reshape(
        old * old, size * size
    )
    resized: Tensor = torch.linalg.pinv(matrix.double()) @ weight.double().reshape(-1, old * old).T
    return resized.T.reshape(*weight.shape[:2], size, size).to(weight.dtype)

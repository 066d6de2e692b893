"""Progressive stages: architectures between a source and a student, and AdamW's moments sliced along with the weights."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.apply import apply_plan
from students.inherit.plan import InheritancePlan
from students.inherit.resnets.slicing import sizes_between
from students.inherit.resnets.tower import resnet_of, resnet_of_config
from students.inherit.towers.differences import refuse_unbridgeable
from students.inherit.towers.tower import Tower, tower_of, tower_of_config
from students.spec import StudentSpec

Moments = Mapping[str, Mapping[str, Tensor]]
MODEL = "model.clip."  # what the names of a student's parameters begin with inside what is trained


def grown(spec: StudentSpec, source: ClipWeights, keep: float) -> StudentSpec:
    """The student's architecture with the towers that it slices from `source` larger.

    Args:
        spec: the student.
        source: what it inherits from.
        keep: the share of the source's layers (of a ResNet, blocks), channels, heads and neurons, in (0, 1); no tower is smaller
            than the student's.

    Raises UsageError where no tower would be larger than the student's.
    """
    cfg = copy.deepcopy(spec.model_cfg)
    larger = False
    for which, part in (("visual", "vision_cfg"), ("text", "text_cfg")):
        nets = (resnet_of(source), resnet_of_config(spec.model_cfg)) if which == "visual" else (None, None)
        if nets[0] is not None and nets[1] is not None:
            words = sizes_between(nets[0], nets[1], keep)
            larger |= words != {"layers": list(nets[1].depths), "width": nets[1].width}
            cfg[part] |= words
            continue
        try:
            old, new = tower_of(source, which), tower_of_config(spec.model_cfg, which)
            refuse_unbridgeable(old, new)
        except UsageError:
            continue  # this tower is not sliced, so there is nothing between
        if new.library != "open_clip":
            continue  # its sizes are not for us to say
        sizes = _between(old, new, keep)
        larger |= sizes != _sizes(new)
        cfg[part] |= _words(new, sizes)
    if not larger:
        raise UsageError(
            f"A stage of student.stages with keep = {keep} is no larger than {spec.name} is itself: leave it out, or keep more."
        )
    return replace(spec, name=f"{spec.name} at {keep:g}", model_cfg=cfg, published_params=None)


def _sizes(tower: Tower) -> dict[str, int]:
    return {"layers": tower.layers, "heads": tower.heads, "ffn": tower.ffn}


def _between(old: Tower, new: Tower, keep: float) -> dict[str, int]:
    """The sizes of a tower that keeps a share of the source's; whole heads of the student's width."""
    heads = min(old.width // new.head_width, old.heads * old.head_width // new.head_width)
    before = {"layers": old.layers, "heads": heads, "ffn": old.ffn}
    return {axis: max(_sizes(new)[axis], round(keep * size)) for axis, size in before.items()}


def _words(new: Tower, sizes: dict[str, int]) -> dict[str, Any]:
    """The sizes in the words of an open_clip configuration."""
    width = sizes["heads"] * new.head_width
    words: dict[str, Any] = {"layers": sizes["layers"], "width": width, "mlp_ratio": sizes["ffn"] / width}
    if int(width * words["mlp_ratio"]) != sizes["ffn"]:
        words["mlp_ratio"] += 0.5 / width
    return words | ({"heads": sizes["heads"]} if new.which == "text" else {"head_width": new.head_width})


def carry(source: ClipWeights, own: Mapping[str, Tensor], inherited: set[str]) -> dict[str, Tensor]:
    """What a stage takes from the one before it beside the sliced towers: every tensor of the same name and shape."""
    return {
        name: source.state[name]
        for name, value in own.items()
        if name not in inherited and name in source.state and source.state[name].shape == value.shape
    }


def slice_moments(
    moments: Moments, plan: InheritancePlan, source: ClipWeights, own: Mapping[str, Tensor], cfg: dict[str, Any]
) -> Moments:
    """AdamW's moments for a sliced student: each parameter's cut as the parameter is.

    Args:
        moments: of the stage before, by the names of parameters inside what was trained.
        plan, source: what the student was sliced by, and from.
        own: the student's state dict.
        cfg: the student's open_clip configuration.

    Returns:
        The moments of every parameter that has any: sliced, or as they are where name and shape are the same.
    """
    result: dict[str, dict[str, Tensor]] = {
        name: dict(value) for name, value in moments.items() if not name.startswith(MODEL)
    }
    inside = {name.removeprefix(MODEL): value for name, value in moments.items() if name.startswith(MODEL)}
    for key in ("exp_avg", "exp_avg_sq"):
        state = {
            name: inside[name][key] if name in inside else torch.zeros_like(value)
            for name, value in source.state.items()
        }
        whole = replace(source, state=state)
        sliced = apply_plan(plan, whole, cfg, {name: torch.zeros_like(value) for name, value in own.items()})
        for name, value in {**sliced, **carry(whole, own, set(sliced))}.items():
            if name in inside:
                result.setdefault(MODEL + name, {"step": inside[name]["step"]})[key] = value
    return result

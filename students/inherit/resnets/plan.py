"""Plans of ResNets: which blocks, and which channels of every axis, as lists of indices. Left out: making them (`planning`)."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from distill.core.errors import UsageError

STAGES = (1, 2, 3, 4)
RESIZED: Literal["interpolate"] = "interpolate"


@dataclass(frozen=True)
class ResNetPlan:
    """Indices into the source's image tower, in the student's order.

    Attributes:
        blocks: per stage, the source block of each of the student's; the first block of a stage is the source's first.
        cuts: axis of the student (see `students.inherit.resnets.tower`) -> the source's indices on the axis that it comes from.
        positions: source position of each of the student's in the attention that pools, or "interpolate".
        embed: source channels of the embedding, the same in both towers; None = the projection is not inherited.
    """

    blocks: list[list[int]]
    cuts: dict[str, list[int]]
    positions: list[int] | Literal["interpolate"]
    embed: list[int] | None = None

    def source_axis(self, axis: str) -> str:
        """The axis of the source that an axis of the student is cut from: of another block where blocks were left out."""
        stage, _, inside = axis.partition(".")
        if not inside or not stage.startswith("layer"):
            return axis
        block, _, part = inside.partition(".")
        return f"{stage}.{self.blocks[int(stage.removeprefix('layer')) - 1][int(block)]}.{part}"

    def indices(self, axis: str) -> list[int] | None:
        """The source's indices on an axis of the student; None where the axis is not inherited."""
        return self.embed if axis == "embed" else self.cuts[axis]


def resnet_plan_of(value: dict[str, Any]) -> ResNetPlan:
    """The plan in a JSON object. Raises UsageError naming the key that is wrong."""
    known = {item.name for item in fields(ResNetPlan)}
    if odd := sorted(value.keys() - known):
        raise UsageError(f"unknown key towers.visual.{odd[0]}.")
    if missing := [key for key in ("blocks", "cuts", "positions") if key not in value]:
        raise UsageError(f"towers.visual lacks {missing[0]!r}.")
    blocks, cuts, positions, embed = value["blocks"], value["cuts"], value["positions"], value.get("embed")
    if not isinstance(blocks, list) or len(blocks) != len(STAGES) or not all(_indices(kept) for kept in blocks):
        raise UsageError("towers.visual.blocks must be four lists of whole numbers, one a stage.")
    for stage, kept in zip(STAGES, blocks, strict=True):
        if not kept or kept[0] != 0 or 0 in kept[1:]:
            raise UsageError(
                f"towers.visual.blocks of stage {stage} must begin with 0 and name it once: a stage's first block alone "
                "changes the width of its stream."
            )
    if not isinstance(cuts, dict) or not all(_indices(kept) for kept in cuts.values()):
        raise UsageError("towers.visual.cuts must be an object of lists of whole numbers.")
    if positions != RESIZED and not _indices(positions):
        raise UsageError(f"towers.visual.positions must be a list of whole numbers or {RESIZED!r}.")
    if embed is not None and not _indices(embed):
        raise UsageError("towers.visual.embed must be a list of whole numbers.")
    for axis, kept in {**cuts, "embed": embed or []}.items():
        if len(set(kept)) != len(kept):
            raise UsageError(f"towers.visual.{axis} names an index twice.")
    return ResNetPlan(blocks, cuts, positions, embed)


def _indices(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def compose_resnets(a: ResNetPlan, b: ResNetPlan) -> ResNetPlan:
    """The one plan that does what `a` and then `b` do. Raises UsageError where both resize positions."""
    if a.positions == RESIZED and b.positions != list(range(len(b.positions))):
        raise UsageError("Two plans that both resize positions make no one plan: slice by one after the other.")
    positions: list[int] | Literal["interpolate"] = RESIZED
    if a.positions != RESIZED and b.positions != RESIZED:
        positions = [int(a.positions[i]) for i in b.positions]
    return ResNetPlan(
        blocks=[[old[i] for i in new] for old, new in zip(a.blocks, b.blocks, strict=True)],
        cuts={axis: [a.cuts[b.source_axis(axis)][i] for i in kept] for axis, kept in b.cuts.items()},
        positions=positions,
        embed=None if a.embed is None or b.embed is None else [a.embed[i] for i in b.embed],
    )

"""Plans of inheritance: which part of the source each part of a student comes from, as lists of indices in a JSON file.

Strategies only make plans (`students.inherit.planning`); one function slices by them (`students.inherit.apply`).
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from distill.core.errors import UsageError
from students.inherit.resnets.plan import ResNetPlan, compose_resnets, resnet_plan_of

INTERPOLATE: Literal["interpolate"] = "interpolate"
OWN = -1  # in place of an index: this row is the student's own, and starts as its architecture starts
FORMAT = 1


@dataclass(frozen=True)
class TowerPlan:
    """Indices into the source tower, in the student's order.

    Attributes:
        layers: source layer of each student layer.
        hidden: source channels of the residual stream, one list shared by the whole tower.
        heads: per student layer, source heads kept. Where the student's heads are n times as wide as the source's, each of
            its heads joins n of them.
        ffn: per student layer, source MLP neurons kept.
        positions: source position of each of the student's, `OWN` where there is none; or "interpolate", an image tower's
            grid resized to the student's.
        head_width: channels per head of the student.
        channels: per student layer and head, which of the source head's channels are kept; None = all.
        embed: source channels of the embedding, the same in both towers; None = the projection is not inherited.
        vocab: source token of each of the student's, `OWN` where there is none; None = the same vocabulary, or no text.
        patch: pixels of a patch's side in source and student, resized where they differ; None of a text tower.
        factors: heads that are narrower than the source's hold the best factors of its products (queries with keys, values
            with the output layer) instead of a choice of their channels.
    """

    layers: list[int]
    hidden: list[int]
    heads: list[list[int]]
    ffn: list[list[int]]
    positions: list[int] | Literal["interpolate"]
    head_width: int
    channels: list[list[list[int]]] | None = None
    embed: list[int] | None = None
    vocab: list[int] | None = None
    patch: list[int] | None = None
    factors: bool = False


@dataclass(frozen=True)
class InheritancePlan:
    """What is inherited from the source, per tower; a tower in `skipped` keeps its own weights, with the reason.

    Attributes:
        strategy: what made the plan.
        source, source_sha256: the model it was made for, and the hash of its weights.
        towers: "visual" and "text", those that are sliced; an image tower may be a ResNet.
        skipped: those that are not, and why.
        across: per tower, fact -> how source and student differ in it although the tower is inherited.
        adopted: towers that are taken over whole, of an architecture that is not sliced (`towers.adopt`).
    """

    strategy: str
    source: str
    source_sha256: str
    towers: dict[str, TowerPlan | ResNetPlan]
    skipped: dict[str, str]
    across: dict[str, dict[str, str]] = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object, which `read_plan` reads."""
        return {"format": FORMAT, **asdict(self)}

    def without(self, tower: str, reason: str) -> "InheritancePlan":
        """The same plan with one tower left alone."""
        towers = {name: plan for name, plan in self.towers.items() if name != tower}
        across = {name: facts for name, facts in self.across.items() if name != tower}
        return replace(self, towers=towers, skipped={**self.skipped, tower: reason}, across=across)


def read_plan(path: Path) -> InheritancePlan:
    """The plan in a file that `to_json` wrote, perhaps changed by hand; or in the inheritance.json of a run.

    Raises UsageError naming the file and the key that is wrong.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no plan of inheritance {str(path)!r}.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"The plan of inheritance {str(path)!r} cannot be read as JSON ({error}).") from None
    if isinstance(value, dict) and isinstance(value.get("plan"), dict):
        value = value["plan"]
    try:
        return plan_of(value)
    except UsageError as error:
        raise UsageError(f"The plan of inheritance {str(path)!r} is wrong: {error}") from None


def plan_of(value: Any) -> InheritancePlan:
    """The plan that a JSON object describes. Raises UsageError naming the key that is wrong."""
    if not isinstance(value, dict) or not isinstance(value.get("towers"), dict):
        raise UsageError("it must be a JSON object with the key 'towers'.")
    if value.get("format", FORMAT) != FORMAT:
        raise UsageError(f"format is {value['format']!r}, and this version reads format {FORMAT}.")
    known = {item.name for item in fields(InheritancePlan)} | {"format"}
    if odd := sorted(value.keys() - known):
        raise UsageError(f"unknown key {odd[0]!r}.")
    for key in ("strategy", "source", "source_sha256"):
        if not isinstance(value.get(key), str):
            raise UsageError(f"{key} must be a string.")
    towers = {name: _tower_plan(name, tower) for name, tower in value["towers"].items()}
    skipped, across, adopted = dict(value.get("skipped", {})), dict(value.get("across", {})), value.get("adopted", [])
    if not isinstance(adopted, list) or not set(adopted) <= {"visual", "text"} - towers.keys():
        raise UsageError("adopted must be a list of towers (visual, text) that are not sliced.")
    return InheritancePlan(value["strategy"], value["source"], value["source_sha256"], towers, skipped, across, adopted)


def _tower_plan(name: str, value: Any) -> TowerPlan | ResNetPlan:
    if name not in ("visual", "text"):
        raise UsageError(f"there is no tower {name!r}: towers are visual and text.")
    if not isinstance(value, dict):
        raise UsageError(f"towers.{name} must be an object.")
    if name == "visual" and "blocks" in value:
        return resnet_plan_of(value)
    known = {item.name for item in fields(TowerPlan)}
    needed = ("layers", "hidden", "heads", "ffn", "positions", "head_width")
    if odd := sorted(value.keys() - known):
        raise UsageError(f"unknown key towers.{name}.{odd[0]}.")
    if missing := [key for key in needed if key not in value]:
        raise UsageError(f"towers.{name} lacks {missing[0]!r}.")
    depths = {"layers": 1, "hidden": 1, "embed": 1, "vocab": 1, "patch": 1, "heads": 2, "ffn": 2, "channels": 3}
    for key, depth in depths.items():
        if value.get(key) is not None and not _ints(value[key], depth):
            raise UsageError(f"towers.{name}.{key} must be a list of {'lists of ' * (depth - 1)}whole numbers.")
    if value["positions"] != INTERPOLATE and not _ints(value["positions"], 1):
        raise UsageError(f"towers.{name}.positions must be a list of whole numbers or {INTERPOLATE!r}.")
    if not isinstance(value.get("factors", False), bool):
        raise UsageError(f"towers.{name}.factors must be true or false.")
    if not isinstance(value["head_width"], int):
        raise UsageError(f"towers.{name}.head_width must be a whole number.")
    for key in ("heads", "ffn", "channels"):
        if value.get(key) is not None and len(value[key]) != len(value["layers"]):
            raise UsageError(f"towers.{name}.{key} has {len(value[key])} lists for {len(value['layers'])} layers.")
    for key in ("layers", "hidden", "embed"):
        if len(set(value.get(key) or ())) != len(value.get(key) or ()):
            raise UsageError(f"towers.{name}.{key} names an index twice.")
    return TowerPlan(**value)


def _ints(value: Any, depth: int) -> bool:
    if not isinstance(value, list):
        return False
    if depth == 1:
        return all(isinstance(item, int) and not isinstance(item, bool) and item >= OWN for item in value)
    return all(_ints(item, depth - 1) for item in value)


def compose(first: InheritancePlan, second: InheritancePlan) -> InheritancePlan:
    """The one plan that does what `first` and then `second` do; the second was made for the result of the first.

    Raises UsageError where a tower of either resizes patches or positions, which no list of indices can say twice.
    """
    towers = {name: _compose(first.towers[name], plan) for name, plan in second.towers.items() if name in first.towers}
    skipped = {**first.skipped, **second.skipped}
    across = {name: {**first.across.get(name, {}), **second.across.get(name, {})} for name in towers}
    across = {name: facts for name, facts in across.items() if facts}
    return InheritancePlan(second.strategy, first.source, first.source_sha256, towers, skipped, across)


def _compose(a: TowerPlan | ResNetPlan, b: TowerPlan | ResNetPlan) -> TowerPlan | ResNetPlan:
    if isinstance(a, ResNetPlan) and isinstance(b, ResNetPlan):
        return compose_resnets(a, b)
    if isinstance(a, ResNetPlan) or isinstance(b, ResNetPlan):
        raise UsageError("A plan of a ResNet and one of a transformer make no one plan.")
    resized = (a.patch or [0, 0])[0] != (a.patch or [0, 0])[1] and (b.patch or [0, 0])[0] != (b.patch or [0, 0])[1]
    if resized or (INTERPOLATE in (a.positions, b.positions) and not b.positions == _whole(b.positions)):
        raise UsageError(
            "Two plans that both resize patches or positions make no one plan: slice by one after the other."
        )
    if (a.channels or b.channels) is not None and len({a.head_width, b.head_width}) > 1 and a.channels is not None:
        raise UsageError("Two plans that both narrow heads make no one plan: slice by one after the other.")
    return TowerPlan(
        layers=[a.layers[i] for i in b.layers],
        hidden=[a.hidden[i] for i in b.hidden],
        heads=[[a.heads[i][h] for h in kept] for i, kept in zip(b.layers, b.heads, strict=True)],
        ffn=[[a.ffn[i][n] for n in kept] for i, kept in zip(b.layers, b.ffn, strict=True)],
        positions=_through(a.positions, b.positions),
        head_width=b.head_width,
        channels=_compose_channels(a, b),
        embed=None if a.embed is None or b.embed is None else [a.embed[i] for i in b.embed],
        vocab=_through_or(a.vocab, b.vocab),
        factors=a.factors or b.factors,
        patch=None if a.patch is None or b.patch is None else [a.patch[0], b.patch[1]],
    )


def _whole(positions: list[int] | Literal["interpolate"]) -> list[int]:
    return list(range(len(positions)))


def _through(
    a: list[int] | Literal["interpolate"], b: list[int] | Literal["interpolate"]
) -> list[int] | Literal["interpolate"]:
    if a == INTERPOLATE or b == INTERPOLATE:
        return INTERPOLATE
    return [OWN if i == OWN else int(a[i]) for i in b]


def _through_or(a: list[int] | None, b: list[int] | None) -> list[int] | None:
    if a is None or b is None:
        return b if a is None else a
    return [OWN if i == OWN else a[i] for i in b]


def _compose_channels(a: TowerPlan, b: TowerPlan) -> list[list[list[int]]] | None:
    if a.channels is None:
        return b.channels
    return [[a.channels[i][h] for h in kept] for i, kept in zip(b.layers, b.heads, strict=True)]

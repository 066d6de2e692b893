"""Making a plan: how each tower of a student is inherited from a source under a strategy."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.plan import INTERPOLATE, OWN, InheritancePlan, TowerPlan
from students.inherit.resnets.plan import ResNetPlan
from students.inherit.resnets.slicing import plan_resnet, refuse_growth
from students.inherit.resnets.tower import EMBED, ResNetTower, resnet_of, resnet_of_config
from students.inherit.scoring.scores import Scores
from students.inherit.strategy import STRATEGIES, Strategy
from students.inherit.towers.adopt import adopt_tower
from students.inherit.towers.differences import differences, refuse_unbridgeable
from students.inherit.towers.tower import Tower, skeleton, tower_of, tower_of_config
from students.inherit.towers.words import VocabularyMap, match_vocabularies

TOWERS = ("visual", "text")


def make_plan(
    source: ClipWeights,
    model_cfg: dict[str, Any],
    strategy: str,
    vocabulary: str = "",
    tokens: Sequence[str] | None = None,
    calibration: Any = None,
) -> InheritancePlan:
    """The plan by which a student inherits from `source`; a tower that cannot is in `skipped`, with the reason.

    Transformers and CLIP's ResNets are sliced; a tower of another kind is adopted whole where it is of the same architecture.

    A tower that differs in kind (see `differences.FACTS`) is planned all the same, and `across` says in what.

    Args:
        source: the model to inherit from.
        model_cfg: the student's open_clip configuration.
        strategy: a name in STRATEGIES.
        vocabulary: the student's, by name.
        tokens: the student's tokens as text, by id; where the vocabularies differ, equal tokens are inherited.
        calibration: pairs to score on (`students.inherit.calibration`); strategies that look at data need it.

    Raises UsageError for an unknown strategy, or one that needs data where there is none.
    """
    chosen = STRATEGIES.get(strategy)()
    if chosen.needs_data and calibration is None:
        raise UsageError(
            f"student.inherit = {strategy!r} scores on stored pairs, and there are none here: train on a reinforced set, or "
            "choose a strategy that looks at weights alone (distill list strategies)."
        )
    pairs: dict[str, tuple[Tower, Tower, VocabularyMap]] = {}
    skipped: dict[str, str] = {}
    adopted: list[str] = []
    nets: tuple[ResNetTower, ResNetTower] | None = None
    for which in TOWERS:
        try:
            if which == "visual" and (nets := _resnets(source, model_cfg)) is not None:
                continue
            old, new = tower_of(source, which), tower_of_config(model_cfg, which)
            refuse_unbridgeable(old, new)
            pairs[which] = (old, new, match_vocabularies(source, vocabulary, tokens, old, new))
        except UsageError as reason:
            try:
                if which == "text" and source.vocabulary != vocabulary:
                    raise UsageError("the vocabulary differs")
                adopt_tower(skeleton(model_cfg), model_cfg, source, which)
                adopted.append(which)
            except UsageError as also:
                skipped[which] = f"{reason}; {also}" if str(reason) != str(also) else str(reason)
    scores = chosen.scores(source, {which: (old, new) for which, (old, new, _) in pairs.items()}, calibration)
    widths = [(old.embed, new.embed, scores[which].embed) for which, (old, new, _) in pairs.items()]
    if nets is not None:
        net_scores = chosen.resnet_scores(source, *nets, calibration)
        widths.append((nets[0].embed, nets[1].embed, net_scores.axes[EMBED]))
    embed = _embed(widths, chosen)
    towers: dict[str, TowerPlan | ResNetPlan] = {}
    across: dict[str, dict[str, str]] = {}
    if nets is not None:
        towers["visual"] = plan_resnet(*nets, net_scores.blocks, net_scores.axes, chosen.pick, embed)
        if nets[0].grid != nets[1].grid:
            places = (f"{net.grid} x {net.grid} places" for net in nets)
            across["visual"] = {"image_size": "{} in the source, {} here".format(*places)}
    for which, (old, new, words) in pairs.items():
        towers[which] = _plan_tower(old, new, scores[which], chosen, embed, words)
        if found := differences(old, new, words.difference):
            across[which] = found
    return InheritancePlan(strategy, source.name, source.sha256, towers, skipped, across, adopted)


def _resnets(source: ClipWeights, model_cfg: dict[str, Any]) -> tuple[ResNetTower, ResNetTower] | None:
    """The two image towers where both are ResNets; None where neither is.

    Raises UsageError, with the reason, where one alone is, or the student's grows.
    """
    old, new = resnet_of(source), resnet_of_config(model_cfg)
    if old is None and new is None:
        return None
    if old is None or new is None:
        kinds = ["no ResNet" if net is None else "a ResNet" for net in (old, new)]
        raise UsageError(f"its image tower is {kinds[0]} in the source, {kinds[1]} here")
    refuse_growth(old, new)
    return old, new


def _embed(widths: list[tuple[int, int, torch.Tensor]], strategy: Strategy) -> list[int] | None:
    """The channels of the embedding that both towers keep; None where the student's is wider, or no tower projects.

    widths: per tower, the embedding's width in source and student, and the worth of the source's channels.
    """
    both = [(before, after) for before, after, _ in widths if before and after]
    if not both:
        return None
    before, after = both[0]
    if any(pair != (before, after) for pair in both) or after > before:
        return None
    total = torch.stack([scores for width, _, scores in widths if width]).square().sum(0).sqrt()
    return strategy.pick(before, after, total)


def _plan_tower(
    old: Tower,
    new: Tower,
    scores: Scores,
    strategy: Strategy,
    embed: list[int] | None,
    words: VocabularyMap,
) -> TowerPlan:
    layers = scores.layers
    heads = new.heads * max(1, new.head_width // old.head_width)
    kept_heads = [strategy.pick(old.heads, heads, scores.heads[layer]) for layer in layers]
    channels = None
    narrower = new.head_width < old.head_width
    if narrower and not strategy.factors:
        channels = [
            [strategy.pick(old.head_width, new.head_width, scores.channels[layer][head]) for head in kept]
            for layer, kept in zip(layers, kept_heads, strict=True)
        ]
    return TowerPlan(
        layers=layers,
        hidden=strategy.pick(old.width, new.width, scores.hidden),
        heads=kept_heads,
        ffn=[strategy.pick(old.ffn, new.ffn, scores.ffn[layer]) for layer in layers],
        positions=_positions(old, new),
        head_width=new.head_width,
        channels=channels,
        embed=embed if old.embed and new.embed else None,
        vocab=words.indices,
        patch=[old.patch, new.patch] if new.which == "visual" else None,
        factors=narrower and strategy.factors,
    )


def _positions(old: Tower, new: Tower) -> list[int] | Literal["interpolate"]:
    """The source's position of each of the student's: the grid as it is or interpolated; of a text the first ones."""
    before, after = old.positions - old.extra, new.positions - new.extra
    if new.which == "visual":
        if before != after:
            return INTERPOLATE
        first = list(range(new.extra)) if old.extra == new.extra else [OWN] * new.extra
        return first + list(range(old.extra, old.positions))
    last = [old.positions - 1 if old.extra else OWN] * new.extra
    return [i if i < before else OWN for i in range(after)] + last

"""Making a plan: how each tower of a student is inherited from a source under a strategy."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.plan import INTERPOLATE, OWN, InheritancePlan, TowerPlan
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

    Transformers are sliced; a tower of another kind is adopted whole where it is of the same architecture.

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
    for which in TOWERS:
        try:
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
    embed = _embed(pairs, scores, chosen)
    towers, across = {}, {}
    for which, (old, new, words) in pairs.items():
        towers[which] = _plan_tower(old, new, scores[which], chosen, embed, words)
        if found := differences(old, new, words.difference):
            across[which] = found
    return InheritancePlan(strategy, source.name, source.sha256, towers, skipped, across, adopted)


def _embed(
    pairs: dict[str, tuple[Tower, Tower, VocabularyMap]], scores: dict[str, Scores], strategy: Strategy
) -> list[int] | None:
    """The channels of the embedding that both towers keep; None where the student's is wider, or no tower projects."""
    both = [(old.embed, new.embed) for old, new, _ in pairs.values() if old.embed and new.embed]
    if not both:
        return None
    before, after = both[0]
    if any(pair != (before, after) for pair in both) or after > before:
        return None
    total = (
        torch.stack([scores[which].embed for which, (old, _, _) in pairs.items() if old.embed]).square().sum(0).sqrt()
    )
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

"""How much each channel, head and neuron of a source counts: by the norm of its weights, or on calibration pairs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from students.inherit.towers.tower import State, Tower

if TYPE_CHECKING:
    from students.inherit.scoring.probe import Totals


@dataclass(frozen=True)
class Scores:
    """The worth of a tower's parts; only their order within one list counts.

    Attributes:
        layers: the source layers kept, ascending.
        hidden: [width], of the channels of the residual stream.
        ffn: per source layer kept, [neurons].
        channels: per source layer kept, [heads, head width], of the channels inside each head.
        heads: per source layer kept, [heads].
        embed: [embed], of the channels of the embedding; empty where the tower has no projection.
    """

    layers: list[int]
    hidden: Tensor
    ffn: dict[int, Tensor]
    channels: dict[int, Tensor]
    heads: dict[int, Tensor]
    embed: Tensor


def weight_norms(tower: Tower, state: State, layers: list[int]) -> Scores:
    """The L2 norms of the weights that belong to each part, over the layers kept alone.

    Args:
        tower: of the source.
        state: the source's state dict.
        layers: the source layers that are kept.
    """
    hidden = torch.zeros(tower.width, device=next(iter(state.values())).device)
    heads, ffn, channels = {}, {}, {}
    for layer in layers:
        q, k, v, out, up, down = (
            _weight(tower, state, f"blocks.{layer}.{name}.weight") for name in ("q", "k", "v", "out", "up", "down")
        )
        hidden += sum(m.square().sum(0) for m in (q, k, v, up)) + sum(m.square().sum(1) for m in (out, down))
        per_channel = sum(m.square().sum(1) for m in (q, k, v)) + out.square().sum(0)
        channels[layer] = per_channel.view(tower.heads, tower.head_width).sqrt()
        heads[layer] = channels[layer].square().sum(1).sqrt()
        ffn[layer] = (up.square().sum(1) + down.square().sum(0)).sqrt()
    return Scores(layers, hidden.sqrt(), ffn, channels, heads, embed_norms(tower, state))


def from_totals(totals: "Totals", tower: Tower, layers: list[int]) -> Scores:
    """Scores from what a scan of calibration pairs added up (`students.inherit.scoring.probe.scan`), over the layers kept."""
    places = [*((f"norm{i}", layer) for layer in layers for i in (1, 2)), ("norm_final", -1)]
    norms = [totals.channels[place] for place in places if place in totals.channels]
    return Scores(
        layers=layers,
        hidden=torch.stack([norm / norm.mean().clamp(min=1e-30) for norm in norms]).sum(0),
        ffn={layer: totals.channels["down", layer] for layer in layers},
        channels={layer: totals.channels["out", layer].view(tower.heads, tower.head_width) for layer in layers},
        heads={layer: totals.heads[layer] for layer in layers},
        embed=totals.embed if tower.embed else torch.zeros(0),
    )


def embed_norms(tower: Tower, state: State) -> Tensor:
    """[embed]: the norm of the projection's weights into each channel of the embedding; empty without a projection."""
    for role in ("projection.weight", "projection2.weight"):
        if (weight := tower.read(state, role)) is not None:
            norms: Tensor = torch.linalg.vector_norm(weight.float(), dim=1)
            return norms
    return torch.zeros(0)


def _weight(tower: Tower, state: State, role: str) -> Tensor:
    value = tower.read(state, role)
    assert value is not None, f"{role} is in no block of the {tower.library} layout"
    return value.float()

"""How much each axis of a ResNet counts: by its folded weights, on calibration pairs, or by masks that are learned."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from students.inherit.resnets.plan import STAGES
from students.inherit.resnets.tower import EMBED, HEADS, PREFIX, ResNetTower, modules_of

See = Callable[[str, int, Tensor], Tensor | None]
POOLED = "out"  # what goes into the last layer of the pool, under the name that transformers' output layers have


@dataclass(frozen=True)
class ResNetScores:
    """The worth of a ResNet's parts; only their order within one axis counts.

    Attributes:
        blocks: per stage, the source blocks that are kept.
        axes: axis of the source -> [its size].
    """

    blocks: list[list[int]]
    axes: dict[str, Tensor]


class _Pool(nn.Module):
    """open_clip's AttentionPool2d with its last layer called as a module, so that hooks see the heads apart."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.positional_embedding, self.num_heads = pool.positional_embedding, pool.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj

    def forward(self, x: Tensor) -> Tensor:
        """[b, channels, H, W] -> [b, D]; only the mean of all places asks."""
        places = x.flatten(2).transpose(1, 2)
        places = torch.cat([places.mean(1, keepdim=True), places], 1) + self.positional_embedding
        q, k, v = (
            layer(value).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, value in ((self.q_proj, places[:, :1]), (self.k_proj, places), (self.v_proj, places))
        )
        pooled: Tensor = self.c_proj(F.scaled_dot_product_attention(q, k, v).flatten(1))
        return pooled


@contextlib.contextmanager
def opened_resnet(model: nn.Module) -> Iterator[None]:
    """While the context lasts, the pool of the image tower is the same one written out."""
    visual: Any = model.get_submodule("visual")
    pool = visual.attnpool
    visual.attnpool = _Pool(pool)
    try:
        yield
    finally:
        visual.attnpool = pool


def watch_resnet(model: nn.Module, tower: ResNetTower, see: See, *, branches: bool = False) -> list[Any]:
    """Hooks that show `see` every tensor that a plan can cut: (part, -1, value); a tensor that it returns takes its place.

    Parts are the axes of channels inside blocks and stem, "layer1.0" for what a block leaves in its stage's stream, and
    "out" for what goes into the pool's last layer; with `branches` also "layer1.1.branch", what a block adds.
    """
    handles = []
    for part, module in modules_of(model, tower).items():
        if branches or not part.endswith(".branch"):
            handles.append(module.register_forward_hook(_behind(part, see)))
    last = model.get_submodule("visual.attnpool.c_proj")
    handles.append(last.register_forward_pre_hook(lambda _, inputs: see(POOLED, -1, inputs[0])))
    return handles


def _behind(part: str, see: See) -> Any:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        return see(part, -1, output)

    return hook


def folded_norms(tower: ResNetTower, state: dict[str, Tensor], blocks: list[list[int]]) -> dict[str, Tensor]:
    """Axis -> the L2 norms of the weights that write or read each channel, in the blocks kept, normalisations folded in.

    A convolution's own scale says nothing where a normalisation follows, so each is taken times gamma over the deviation.
    """
    sums: dict[str, Tensor] = {}
    for name, axes in tower.axes.items():
        parts = name.removeprefix(PREFIX).split(".")
        if len(axes) < 2 or parts[-1] != "weight":
            continue
        if parts[0].startswith("layer") and int(parts[1]) not in blocks[int(parts[0].removeprefix("layer")) - 1]:
            continue
        weight = _folded(name, state)
        for side, axis in enumerate(axes):
            if axis is not None:
                sides = [other for other in range(weight.ndim) if other != side]
                sums[axis] = sums.get(axis, torch.zeros(())) + weight.square().sum(sides)
    sums[HEADS] = sums[HEADS].view(tower.heads, -1).sum(1)
    embed = _folded(
        f"{PREFIX}attnpool.c_proj.weight", state
    )  # the text tower's are added to these, so they count alone
    return {axis: value.sqrt() for axis, value in sums.items()} | {EMBED: torch.linalg.vector_norm(embed, dim=1)}


def _folded(name: str, state: dict[str, Tensor]) -> Tensor:
    weight = state[name].float()
    head, _, module = name.removesuffix(".weight").rpartition(".")
    norm = f"{head}.{module.replace('conv', 'bn') if module.startswith('conv') else '1'}"
    if f"{norm}.running_var" not in state:
        return weight
    scale = state[f"{norm}.weight"].float() / (state[f"{norm}.running_var"].float() + 1e-5).sqrt()
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def axes_from_totals(
    channels: dict[tuple[str, int], Tensor], heads: Tensor, embed: Tensor, tower: ResNetTower, blocks: list[list[int]]
) -> dict[str, Tensor]:
    """Axis -> the worth of each index, of what a scan of pairs added up (`students.inherit.scoring.probe.scan`).

    A stage's stream is seen behind each of its blocks; those kept count equally.
    """
    found = {part: value for (part, _), value in channels.items()}
    axes = {axis: found[axis] for axis in tower.sizes if axis in found}
    for stage, kept in zip(STAGES, blocks, strict=True):
        seen = [found[f"layer{stage}.{block}"] for block in kept]
        axes[f"layer{stage}"] = torch.stack([value / value.mean().clamp(min=1e-30) for value in seen]).sum(0)
    return {**axes, HEADS: heads, EMBED: embed}

"""A ResNet of CLIP's kind (open_clip's ModifiedResNet) as inheritance sees it: which axis lies along each side of each tensor.

An *axis* is a set of channels that are cut together. "stem.1", "stem.2" and "stem" are the outputs of the three stem layers;
"layer1" to "layer4" the residual stream of each stage, which all of its blocks share; "layer2.0.1" and "layer2.0.2" the two
inner widths of a block; "heads" the heads of the attention that pools; "embed" the embedding. A normalisation's tensors lie
along the axis of the convolution before it. Left out: other ResNets (timm's are adopted whole, `students.inherit.towers.adopt`).
"""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.resnets.plan import STAGES
from students.inherit.towers.tower import skeleton

PREFIX = "visual."
POOL = "attnpool."
EMBED, HEADS, POSITIONS = "embed", "heads", "positions"
LAST = f"layer{STAGES[-1]}"
SHRINKS = 32  # pixels of a side per place of the last stage


@dataclass(frozen=True)
class ResNetTower:
    """The image tower of a model.

    Attributes:
        depths: blocks of each stage.
        sizes: axis -> its size; "heads" counts heads.
        axes: name of a tensor -> the axis along each of its sides, None = whole.
        head_width: channels of a head.
        positions: rows of the position table: one for the mean of all places, then the grid's.
    """

    depths: tuple[int, ...]
    sizes: dict[str, int] = field(repr=False)
    axes: dict[str, tuple[str | None, ...]] = field(repr=False)
    head_width: int
    positions: int

    @property
    def heads(self) -> int:
        """How many heads pool."""
        return self.sizes[HEADS]

    @property
    def embed(self) -> int:
        """Width of the embeddings."""
        return self.sizes[EMBED]

    @property
    def width(self) -> int:
        """Channels of the stem, by which open_clip's configuration counts all others."""
        return self.sizes["stem"]

    @property
    def grid(self) -> int:
        """Places along a side of what is pooled."""
        return math.isqrt(self.positions - 1)

    def blocks(self) -> list[tuple[int, int]]:
        """(stage, block) of every block."""
        return [(stage, block) for stage, depth in zip(STAGES, self.depths, strict=True) for block in range(depth)]


def resnet_of(source: ClipWeights) -> ResNetTower | None:
    """The image tower of a source of weights where it is such a ResNet, else None."""
    return find_resnet(source.state, source.model_cfg)


def resnet_of_config(model_cfg: dict[str, Any]) -> ResNetTower | None:
    """The image tower of a model of this open_clip configuration where it is such a ResNet, else None."""
    if not isinstance(model_cfg["vision_cfg"].get("layers"), list | tuple):
        return None
    return find_resnet(skeleton(model_cfg).state_dict(), model_cfg)


def find_resnet(state: dict[str, Tensor], model_cfg: dict[str, Any]) -> ResNetTower | None:
    """The ResNet in a state dict, whose shapes alone are read; None where there is none.

    Args:
        state: of an open_clip model.
        model_cfg: its configuration, which alone knows the width of heads.
    """
    if f"{PREFIX}{POOL}c_proj.weight" not in state or f"{PREFIX}layer1.0.conv1.weight" not in state:
        return None
    depths = tuple(_depth(state, stage) for stage in STAGES)
    tensors = {name: value for name, value in state.items() if name.startswith(PREFIX)}
    axes = {name: _axes(name.removeprefix(PREFIX), value.ndim) for name, value in tensors.items()}
    sizes = {
        axis: size
        for name, value in tensors.items()
        for axis, size in zip(axes[name], value.shape, strict=True)
        if axis
    }
    head_width = int(model_cfg["vision_cfg"].get("head_width", 64))
    sizes[HEADS] //= head_width
    return ResNetTower(depths, sizes, axes, head_width, sizes.pop(POSITIONS))


def _depth(state: dict[str, Tensor], stage: int) -> int:
    count = 0
    while f"{PREFIX}layer{stage}.{count}.conv1.weight" in state:
        count += 1
    return count


def _axes(name: str, sides: int) -> tuple[str | None, ...]:
    """The axes of a tensor by its name behind the prefix. Raises UsageError for a name that no ResNet has."""
    if sides == 0:  # the number of batches that a normalisation has seen
        return ()
    if name.startswith(POOL):
        return _pool_axes(name.removeprefix(POOL))
    module = name.rpartition(".")[0]
    out, into = _layer_axes(module)
    return (out,) if sides == 1 else (out, into, *[None] * (sides - 2))


def _pool_axes(name: str) -> tuple[str | None, ...]:
    part, _, kind = name.partition(".")
    if part == "positional_embedding":
        return POSITIONS, LAST
    if part == "c_proj":
        return (EMBED, HEADS) if kind == "weight" else (EMBED,)
    return (HEADS, LAST) if kind == "weight" else (HEADS,)


def _layer_axes(module: str) -> tuple[str, str | None]:
    """(axis of the outputs, axis of the inputs) of a convolution or of the normalisation behind it."""
    stems = {"1": ("stem.1", None), "2": ("stem.2", "stem.1"), "3": ("stem", "stem.2")}
    head, _, rest = module.partition(".")
    if not rest and head[:-1] in ("conv", "bn") and head[-1] in stems:
        return stems[head[-1]]
    if not head.startswith("layer") or not rest:
        raise UsageError(f"its image tower has a part that is not sliced here ({module})")
    stage, (block, part) = int(head.removeprefix("layer")), rest.split(".")[:2]
    before = "stem" if stage == 1 else f"layer{stage - 1}"
    stream = before if block == "0" else head
    inner = f"{head}.{block}"
    found = {
        "1": (f"{inner}.1", stream),
        "2": (f"{inner}.2", f"{inner}.1"),
        "3": (head, f"{inner}.2"),
    }
    return (head, stream) if part == "downsample" else found[part[-1]]


def modules_of(model: nn.Module, tower: ResNetTower) -> dict[str, nn.Module]:
    """Axis -> the activation whose output it is, or for a stage's blocks "layer1.0" -> the one behind the sum.

    "layer1.0.branch" is the last normalisation of a block, what it adds to the stream.
    """
    visual = model.get_submodule("visual")
    found = {"stem.1": "act1", "stem.2": "act2", "stem": "act3"}
    for stage, block in tower.blocks():
        name = f"layer{stage}.{block}"
        found |= {
            f"{name}.1": f"{name}.act1",
            f"{name}.2": f"{name}.act2",
            name: f"{name}.act3",
            f"{name}.branch": f"{name}.bn3",
        }
    return {axis: visual.get_submodule(place) for axis, place in found.items()}

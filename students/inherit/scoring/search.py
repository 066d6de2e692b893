"""Learning which parts of a frozen source to keep: masks on layers, heads, neurons and channels, trained on calibration pairs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core.clip.weights import ClipWeights
from students.inherit.calibration import Calibration
from students.inherit.resnets.plan import STAGES
from students.inherit.resnets.scoring import POOLED
from students.inherit.resnets.tower import EMBED, HEADS, ResNetTower
from students.inherit.scoring.masks import HardConcrete, Lagrangian, ramp
from students.inherit.scoring.probe import encode, pieces, runnable, watched
from students.inherit.towers.tower import Tower

STEPS, RATE, ASCENT = 120, 0.1, 0.2


class Masks(nn.Module):
    """The masks of one tower, and the shares that they are to keep.

    Args:
        sizes: axis -> the shape of its masks.
        shares: what each group of `kept` is to keep.
    """

    def __init__(self, sizes: Mapping[str, tuple[int, ...]], shares: list[float]) -> None:
        super().__init__()
        self.masks = nn.ModuleDict({axis.replace(".", "-"): HardConcrete(size) for axis, size in sizes.items()})
        self.names = list(sizes)
        self.register_buffer("target", torch.tensor(shares))
        self.drawn: dict[str, Tensor] = {}

    def draw(self, generator: torch.Generator) -> None:
        """Draw every mask anew."""
        self.drawn = {axis: self.mask(axis).sample(generator) for axis in self.names}

    def kept(self) -> Tensor:
        """[groups]: the expected share that each group keeps."""
        raise NotImplementedError

    def apply_to(self, part: str, layer: int, value: Tensor) -> Tensor | None:
        """A tensor of the source (see `students.inherit.scoring.probe.watched`) times the masks that were drawn."""
        raise NotImplementedError

    def found(self) -> dict[str, Tensor]:
        """Axis -> the masks' logarithms of odds."""
        return {axis: self.mask(axis).log_alpha.detach().clone() for axis in self.names}

    def mask(self, axis: str) -> HardConcrete:
        """The masks of one axis."""
        found = self.masks[axis.replace(".", "-")]  # a module's name holds no dot
        assert isinstance(found, HardConcrete)
        return found


class TowerMasks(Masks):
    """The masks of a transformer.

    Args:
        old, new: the tower in source and student.
    """

    def __init__(self, old: Tower, new: Tower) -> None:
        sizes = {
            "layers": (old.layers,),
            "hidden": (old.width,),
            "heads": (old.layers, old.heads),
            "ffn": (old.layers, old.ffn),
        }
        heads = new.heads * max(1, new.head_width // old.head_width)
        shares = [
            new.layers / old.layers,
            new.width / old.width,
            *[heads / old.heads] * old.layers,
            *[new.ffn / old.ffn] * old.layers,
        ]
        super().__init__(sizes, shares)
        self.head_width = old.head_width

    def kept(self) -> Tensor:
        """[groups]: the expected share of layers, of channels, of each layer's heads and of each layer's neurons."""
        expected = {axis: self.mask(axis).expected() for axis in self.names}
        return torch.cat(
            [
                expected["layers"].mean()[None],
                expected["hidden"].mean()[None],
                expected["heads"].mean(1),
                expected["ffn"].mean(1),
            ]
        )

    def apply_to(self, part: str, layer: int, value: Tensor) -> Tensor:
        """A tensor of the source (see `students.inherit.scoring.probe.watch`) times the masks that were drawn."""
        if part.startswith("norm"):
            return value * self.drawn["hidden"].to(value)
        inner = (
            self.drawn["ffn"][layer]
            if part == "down"
            else self.drawn["heads"][layer].repeat_interleave(self.head_width)
        )
        return value * (inner * self.drawn["layers"][layer]).to(value)


class ResNetMasks(Masks):
    """The masks of a ResNet: one group per axis, and per stage one of the blocks behind its first.

    Args:
        old, new: the tower in source and student.
    """

    def __init__(self, old: ResNetTower, new: ResNetTower) -> None:
        sizes = {axis: (size,) for axis, size in old.sizes.items() if axis != EMBED}
        shares = [new.sizes[_first(axis)] / size for axis, (size,) in sizes.items()]
        for stage, before, after in zip(STAGES, old.depths, new.depths, strict=True):
            sizes[f"blocks{stage}"] = (before - 1,)
            shares.append((after - 1) / max(1, before - 1))
        super().__init__(sizes, shares)
        self.head_width = old.head_width

    def kept(self) -> Tensor:
        """[groups]: the expected share of every axis, and of each stage's blocks."""
        return torch.stack(
            [each.mean() if len(each := self.mask(axis).expected()) else each.sum() for axis in self.names]
        )

    def apply_to(self, part: str, layer: int, value: Tensor) -> Tensor | None:
        """A tensor of the source times the masks that were drawn."""
        if part == POOLED:
            return value * self.drawn[HEADS].repeat_interleave(self.head_width).to(value)
        if part in self.drawn:
            return value * self.drawn[part].to(value)[:, None, None]
        stage, block = part.split(".")[:2]
        if not part.endswith(".branch"):
            return value * self.drawn[stage].to(value)[:, None, None]
        number = int(block) - 1
        return None if number < 0 else value * self.drawn[f"blocks{stage.removeprefix('layer')}"][number].to(value)


def _first(axis: str) -> str:
    """The axis of a student's first block of the same stage, which every block of a source's stage is to become as wide as."""
    parts = axis.split(".")
    return ".".join([parts[0], "0", *parts[2:]]) if axis.startswith("layer") and len(parts) > 1 else axis


def learn_masks(
    source: ClipWeights,
    towers: Mapping[str, tuple[Tower, Tower] | tuple[ResNetTower, ResNetTower]],
    calibration: Calibration,
    steps: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Tensor]]:
    """Per tower, axis -> logarithms of odds: "layers" [L], "hidden" [C], "heads" [L, H], "ffn" [L, F]; or a ResNet's axes.

    Each step takes a piece of the pairs, masks the source and asks for the embeddings that it gives whole (1 - cosine). The
    Lagrangian has a group for the layers, one for the channels, and one per layer for heads and for neurons.
    """
    steps = STEPS if steps is None else steps
    model, generator = runnable(source), torch.Generator().manual_seed(seed)
    masks = {which: _masks_of(old, new) for which, (old, new) in towers.items()}
    every = pieces(calibration)
    with torch.no_grad():
        whole = {
            which: [F.normalize(encode(source, calibration, which, p)[0].float(), dim=1) for p in every]
            for which in towers
        }
    for which, own in masks.items():
        lagrangian = Lagrangian(len(own.kept()))
        optimizer = torch.optim.Adam(own.parameters(), lr=RATE)
        target = own.get_buffer("target")
        with watched(model, towers[which][0], own.apply_to, branches=True):
            for step in range(steps):
                number = step % len(every)
                own.draw(generator)
                embeds = _unit(source, calibration, which, every[number])
                off = (1 - (embeds * whole[which][number]).sum(1)).mean().cpu()
                loss = off + lagrangian.penalty(own.kept(), ramp(step, steps, target))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                lagrangian.ascend(ASCENT)
    return {which: own.found() for which, own in masks.items()}


def _masks_of(old: Tower | ResNetTower, new: Tower | ResNetTower) -> Masks:
    if isinstance(old, ResNetTower):
        assert isinstance(new, ResNetTower)
        return ResNetMasks(old, new)
    assert isinstance(new, Tower)
    return TowerMasks(old, new)


def _unit(source: ClipWeights, calibration: Calibration, which: str, piece: slice) -> Tensor:
    return F.normalize(encode(source, calibration, which, piece)[0].float(), dim=1)

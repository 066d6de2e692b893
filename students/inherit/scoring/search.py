"""Learning which parts of a frozen source to keep: masks on layers, heads, neurons and channels, trained on calibration pairs."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core.clip.weights import ClipWeights
from students.inherit.calibration import Calibration
from students.inherit.scoring.masks import HardConcrete, Lagrangian, ramp
from students.inherit.scoring.probe import encode, hooked, opened, pieces, runnable, watch
from students.inherit.towers.tower import Tower

STEPS, RATE, ASCENT = 120, 0.1, 0.2
AXES = ("layers", "hidden", "heads", "ffn")


class TowerMasks(nn.Module):
    """The masks of one tower, and the shares that they are to keep.

    Args:
        old, new: the tower in source and student.
    """

    def __init__(self, old: Tower, new: Tower) -> None:
        super().__init__()
        sizes = {
            "layers": (old.layers,),
            "hidden": (old.width,),
            "heads": (old.layers, old.heads),
            "ffn": (old.layers, old.ffn),
        }
        self.masks = nn.ModuleDict({axis: HardConcrete(size) for axis, size in sizes.items()})
        heads = new.heads * max(1, new.head_width // old.head_width)
        shares = [
            new.layers / old.layers,
            new.width / old.width,
            *[heads / old.heads] * old.layers,
            *[new.ffn / old.ffn] * old.layers,
        ]
        self.register_buffer("target", torch.tensor(shares))
        self.head_width = old.head_width
        self.drawn: dict[str, Tensor] = {}

    def draw(self, generator: torch.Generator) -> None:
        """Draw every mask anew."""
        self.drawn = {axis: self._of(axis).sample(generator) for axis in AXES}

    def kept(self) -> Tensor:
        """[groups]: the expected share of layers, of channels, of each layer's heads and of each layer's neurons."""
        expected = {axis: self._of(axis).expected() for axis in AXES}
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

    def found(self) -> dict[str, Tensor]:
        """Axis -> the masks' logarithms of odds."""
        return {axis: self._of(axis).log_alpha.detach().clone() for axis in AXES}

    def _of(self, axis: str) -> HardConcrete:
        mask = self.masks[axis]
        assert isinstance(mask, HardConcrete)
        return mask


def learn_masks(
    source: ClipWeights,
    towers: dict[str, tuple[Tower, Tower]],
    calibration: Calibration,
    steps: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Tensor]]:
    """Per tower, axis -> logarithms of odds: "layers" [L], "hidden" [C], "heads" [L, H], "ffn" [L, F].

    Each step takes a piece of the pairs, masks the source and asks for the embeddings that it gives whole (1 - cosine). The
    Lagrangian has a group for the layers, one for the channels, and one per layer for heads and for neurons.
    """
    steps = STEPS if steps is None else steps
    model, generator = runnable(source), torch.Generator().manual_seed(seed)
    masks = {which: TowerMasks(old, new) for which, (old, new) in towers.items()}
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
        with contextlib.ExitStack() as stack:
            modules = stack.enter_context(opened(model, towers[which][0]))
            stack.enter_context(hooked(watch(modules, towers[which][0], _masking(own))))
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


def _unit(source: ClipWeights, calibration: Calibration, which: str, piece: slice) -> Tensor:
    return F.normalize(encode(source, calibration, which, piece)[0].float(), dim=1)


def _masking(own: TowerMasks) -> Callable[[str, int, Tensor], Tensor | None]:
    return lambda part, layer, value: own.apply_to(part, layer, value)

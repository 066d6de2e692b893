"""Hard-concrete masks (Louizos et al. 2018, arXiv 1712.01312) and the two-sided Lagrangian that brings them to a target."""

import math

import torch
from torch import Tensor, nn

LOW, HIGH = -0.1, 1.1  # what the concrete variable is stretched to before it is clamped to [0, 1]
TEMPERATURE = 2 / 3


class HardConcrete(nn.Module):
    """Random masks in [0, 1], most of them 0 or 1, with a gradient.

    Args:
        shape: one mask each.
        start: initial logarithm of the odds.
    """

    def __init__(self, shape: tuple[int, ...], start: float = 2.0) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full(shape, start))

    def sample(self, generator: torch.Generator) -> Tensor:
        """One draw of every mask."""
        u = torch.rand(self.log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
        concrete = torch.sigmoid((u.log() - (-u).log1p() + self.log_alpha) / TEMPERATURE)
        return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)

    def expected(self) -> Tensor:
        """Of every mask the probability that it is not 0, in closed form."""
        return torch.sigmoid(self.log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


class Lagrangian(nn.Module):
    """What pulls kept shares p to their targets t from both sides: a (p - t) + b (p - t)^2, both multipliers ascending.

    Args:
        groups: how many shares there are, each with multipliers of its own.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(groups))
        self.quadratic = nn.Parameter(torch.full((groups,), 30.0))

    def penalty(self, kept: Tensor, target: Tensor) -> Tensor:
        """[]: of the kept shares [groups] against their targets [groups]; 0 where all are met."""
        off = kept - target
        return (self.linear * off + self.quadratic * off.square()).sum()

    @torch.no_grad()
    def ascend(self, rate: float) -> None:
        """Step both multipliers up their gradient, which the penalty's backward pass left."""
        for multiplier in (self.linear, self.quadratic):
            assert multiplier.grad is not None
            multiplier.add_(rate * multiplier.grad)
            multiplier.grad = None


def ramp(step: int, steps: int, target: Tensor) -> Tensor:
    """The target of a step: from 1 straight down to `target` in the first half of the steps, then `target`."""
    share = min(1.0, (step + 1) / max(1, steps // 2))
    return 1 + share * (target - 1)

"""What an inheritance strategy decides: which k of n layers, channels, heads or neurons a student takes over."""

from typing import TYPE_CHECKING

from distill.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


def evenly(n: int, k: int) -> list[int]:
    """k of n indices evenly spaced, both ends included."""
    return [0] if k == 1 else [round(i * (n - 1) / (k - 1)) for i in range(k)]


class Strategy:
    """A way to choose; its docstring's first line is what `distill list strategies` shows."""

    def layers(self, n: int, k: int) -> list[int]:
        """Which k of the source's n layers to keep, ascending.

        Evenly spread unless a strategy says otherwise: a layer's weight norm says little about its worth.
        """
        return evenly(n, k)

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """Which k of n channels, heads or neurons to keep, ascending. scores: [n], the norm of each one's weights."""
        raise NotImplementedError


STRATEGIES: Registry[type[Strategy]] = Registry("inheritance strategy", ("students.inherit.strategies",))

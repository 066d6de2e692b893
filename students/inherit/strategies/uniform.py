"""The strategy that looks at no weights."""

from typing import TYPE_CHECKING

from students.inherit.strategy import STRATEGIES, Strategy, evenly

if TYPE_CHECKING:
    from torch import Tensor


@STRATEGIES.register("uniform")
class Uniform(Strategy):
    """k of n evenly spaced, both ends included."""

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """k evenly spaced."""
        return evenly(n, k)

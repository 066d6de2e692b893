"""The strategy that takes large weights for important ones."""

from typing import TYPE_CHECKING

from students.inherit.strategy import STRATEGIES, Strategy, largest

if TYPE_CHECKING:
    from torch import Tensor


@STRATEGIES.register("magnitude")
class Magnitude(Strategy):
    """The k of largest weight norm."""

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """The k of largest score."""
        return largest(k, scores)

"""The strategy of TinyCLIP's code."""

from typing import TYPE_CHECKING

from students.inherit.strategy import STRATEGIES, Strategy

if TYPE_CHECKING:
    from torch import Tensor


@STRATEGIES.register("front")
class Front(Strategy):
    """The first k of n: what TinyCLIP's code does for every width."""

    def layers(self, n: int, k: int) -> list[int]:
        """The first k."""
        return list(range(k))

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """The first k."""
        return list(range(k))

"""The strategy of TinyCLIP's code."""

from typing import TYPE_CHECKING

from students.inherit.strategy import STRATEGIES, Strategy

if TYPE_CHECKING:
    from torch import Tensor


@STRATEGIES.register("front")
class Front(Strategy):
    """The first k of n in every width, and layers at a whole stride: what TinyCLIP's code does."""

    def layers(self, n: int, k: int) -> list[int]:
        """Every (n // k)-th from the first on: 0, 2, ..., 10 for 6 of 12, but the first 9 for 9 of 12."""
        return list(range(0, n // k * k, n // k))

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """The first k."""
        return list(range(k))

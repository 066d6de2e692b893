"""The strategy of low-rank factors."""

from typing import TYPE_CHECKING

from students.inherit.strategy import STRATEGIES, Strategy, largest

if TYPE_CHECKING:
    from torch import Tensor


@STRATEGIES.register("low-rank")
class LowRank(Strategy):
    """Narrower heads get the best factors of the source's products (after PELA, arXiv 2310.10700); all else is `magnitude`.

    What a head computes is two products, of queries with keys and of values with the output layer. A student whose heads are
    narrower holds their truncated singular value decompositions, already merged into its own layers, so that its
    architecture stays a plain one. Where heads are as wide as the source's there is nothing to factorise.
    """

    factors = True

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """The k of largest weight norm."""
        return largest(k, scores)

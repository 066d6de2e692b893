"""What an inheritance strategy decides: which k of n layers, channels, heads or neurons a student takes over."""

from typing import TYPE_CHECKING, Any

from distill.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from distill.core.clip.weights import ClipWeights
    from students.inherit.resnets.scoring import ResNetScores
    from students.inherit.resnets.tower import ResNetTower
    from students.inherit.scoring.scores import Scores
    from students.inherit.towers.tower import Tower


def evenly(n: int, k: int) -> list[int]:
    """k of n indices evenly spaced, both ends included."""
    return [0] if k == 1 else [round(i * (n - 1) / (k - 1)) for i in range(k)]


class Strategy:
    """A way to choose; its docstring's first line is what `distill list strategies` shows.

    Attributes:
        needs_data: whether its scores are taken on calibration pairs, not on weights alone.
        factors: whether heads that are narrower than the source's hold factors of its products, not a choice of channels.
    """

    needs_data = False
    factors = False

    def layers(self, n: int, k: int) -> list[int]:
        """Which k of the source's n layers to keep, ascending.

        Evenly spread unless a strategy says otherwise: a layer's weight norm says little about its worth.
        """
        return evenly(n, k)

    def scores(
        self, source: "ClipWeights", towers: "dict[str, tuple[Tower, Tower]]", calibration: Any
    ) -> "dict[str, Scores]":
        """Per tower, the layers kept and the worth of its parts: the norm of their weights, unless a strategy says otherwise.

        Args:
            source: what is inherited from.
            towers: "visual" and "text" or one of them -> the tower in the source and in the student.
            calibration: `students.inherit.calibration.Calibration`, None where there is none.
        """
        from students.inherit.scoring.scores import weight_norms

        return {
            which: weight_norms(old, source.state, self.layers(old.layers, new.layers))
            for which, (old, new) in towers.items()
        }

    def resnet_scores(
        self, source: "ClipWeights", old: "ResNetTower", new: "ResNetTower", calibration: Any
    ) -> "ResNetScores":
        """The blocks kept of a ResNet and the worth of its channels; arguments as of `scores`, the towers of source and student."""
        from students.inherit.resnets.scoring import ResNetScores, folded_norms

        blocks = self.blocks(old, new)
        return ResNetScores(blocks, folded_norms(old, source.state, blocks))

    def blocks(self, old: "ResNetTower", new: "ResNetTower") -> list[list[int]]:
        """Per stage of a ResNet, which of the source's blocks to keep: by the rule of `layers`, the first always."""
        return [self.layers(n, k) for n, k in zip(old.depths, new.depths, strict=True)]

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """Which k of n channels, heads or neurons to keep, ascending. scores: [n], the worth of each one."""
        raise NotImplementedError


def largest(k: int, scores: "Tensor") -> list[int]:
    """The k of largest score, ascending; of equal ones the first."""
    kept: list[int] = scores.sort(descending=True, stable=True).indices[:k].tolist()
    return sorted(kept)


STRATEGIES: Registry[type[Strategy]] = Registry("inheritance strategy", ("students.inherit.strategies",))
"""One module per inheritance strategy."""

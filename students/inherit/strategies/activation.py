"""The strategy of Minitron: what is most active on data is most worth keeping."""

from typing import TYPE_CHECKING, Any

from students.inherit.strategy import STRATEGIES, Strategy, largest

if TYPE_CHECKING:
    from torch import Tensor

    from distill.core.clip.weights import ClipWeights
    from students.inherit.resnets.scoring import ResNetScores
    from students.inherit.resnets.tower import ResNetTower
    from students.inherit.scoring.scores import Scores
    from students.inherit.towers.tower import Tower


@STRATEGIES.register("activation")
class Activation(Strategy):
    """The k most active on the run's own pairs: mean absolute activation (Minitron, arXiv 2407.14679)."""

    needs_data = True

    def scores(
        self, source: "ClipWeights", towers: "dict[str, tuple[Tower, Tower]]", calibration: Any
    ) -> "dict[str, Scores]":
        """Per tower the mean absolute activation of heads, neurons and channels; of the embedding its spread over pairs."""
        from students.inherit.scoring.probe import scan
        from students.inherit.scoring.scores import from_totals

        found = scan(source, {which: old for which, (old, _) in towers.items()}, calibration)
        return {
            which: from_totals(found[which], old, self.layers(old.layers, new.layers))
            for which, (old, new) in towers.items()
        }

    def resnet_scores(
        self, source: "ClipWeights", old: "ResNetTower", new: "ResNetTower", calibration: Any
    ) -> "ResNetScores":
        """The mean absolute activation of channels and heads; of the embedding its spread over pairs."""
        from students.inherit.resnets.scoring import ResNetScores, axes_from_totals
        from students.inherit.scoring.probe import scan

        found, blocks = scan(source, {"visual": old}, calibration)["visual"], self.blocks(old, new)
        return ResNetScores(blocks, axes_from_totals(found.channels, found.heads[-1], found.embed, old, blocks))

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """The k of largest score."""
        return largest(k, scores)

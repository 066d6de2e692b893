"""The strategy of first-order Taylor pruning: what changes the loss most when it is removed is most worth keeping."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from students.inherit.strategy import STRATEGIES, Strategy, largest

if TYPE_CHECKING:
    from torch import Tensor

    from distill.core.clip.weights import ClipWeights
    from students.inherit.resnets.scoring import ResNetScores
    from students.inherit.resnets.tower import ResNetTower
    from students.inherit.scoring.scores import Scores
    from students.inherit.towers.tower import Tower

MOST = 100.0  # logit scale


@STRATEGIES.register("taylor")
class Taylor(Strategy):
    """The k whose removal changes the source's contrastive loss most on the run's own pairs: |gradient x activation|.

    After Molchanov et al. 2019 (arXiv 1906.10771), ranked only among parts of one kind (Isomorphic Pruning, arXiv 2407.04616):
    heads of a layer, neurons of a layer, channels of a tower.
    """

    needs_data = True

    def scores(
        self, source: "ClipWeights", towers: "dict[str, tuple[Tower, Tower]]", calibration: Any
    ) -> "dict[str, Scores]":
        """Per tower the mean absolute first-order change of the contrastive loss, of both towers of the source."""
        from students.inherit.scoring.probe import scan
        from students.inherit.scoring.scores import from_totals

        both = {which: towers[which][0] if which in towers else None for which in ("visual", "text")}
        found = scan(source, both, calibration, _loss(source))
        return {
            which: from_totals(found[which], old, self.layers(old.layers, new.layers))
            for which, (old, new) in towers.items()
        }

    def resnet_scores(
        self, source: "ClipWeights", old: "ResNetTower", new: "ResNetTower", calibration: Any
    ) -> "ResNetScores":
        """The mean absolute first-order change of the contrastive loss, per sample and channel or head."""
        from students.inherit.resnets.scoring import ResNetScores, axes_from_totals
        from students.inherit.scoring.probe import scan

        loss = _loss(source)
        found, blocks = scan(source, {"visual": old, "text": None}, calibration, loss)["visual"], self.blocks(old, new)
        return ResNetScores(blocks, axes_from_totals(found.channels, found.heads[-1], found.embed, old, blocks))

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """The k of largest score."""
        return largest(k, scores)


def _loss(source: "ClipWeights") -> "Callable[[dict[str, Tensor]], Tensor]":
    """The contrastive loss at the source's own scale, or where it has none (frozen towers) at the largest that CLIP allows."""
    from students.inherit.scoring.probe import contrastive

    own = source.state.get("logit_scale")
    return contrastive(MOST if own is None else min(float(own.float().exp()), MOST))

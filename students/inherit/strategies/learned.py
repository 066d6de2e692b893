"""The strategy of TinyCLIP's automatic inheritance, ended on the student's exact shape."""

from typing import TYPE_CHECKING, Any

from students.inherit.strategy import STRATEGIES, Strategy, largest

if TYPE_CHECKING:
    from torch import Tensor

    from distill.core.clip.weights import ClipWeights
    from students.inherit.resnets.scoring import ResNetScores
    from students.inherit.resnets.tower import ResNetTower
    from students.inherit.scoring.scores import Scores
    from students.inherit.towers.tower import Tower


@STRATEGIES.register("learned")
class Learned(Strategy):
    """The k that masks keep which are learned on the run's own pairs (TinyCLIP, arXiv 2309.12314), layers included.

    Hard-concrete masks on the frozen source are trained to change its embeddings least while a Lagrangian pulls each axis to the
    student's share; what is kept are the k largest of each list, so that the shape is the student's exactly.
    """

    needs_data = True

    def scores(
        self, source: "ClipWeights", towers: "dict[str, tuple[Tower, Tower]]", calibration: Any
    ) -> "dict[str, Scores]":
        """Per tower the layers that are kept, and the masks' logarithms of odds."""
        from students.inherit.scoring.scores import Scores, embed_norms
        from students.inherit.scoring.search import learn_masks

        result = {}
        for which, masks in learn_masks(source, towers, calibration).items():
            old, new = towers[which]
            layers = largest(new.layers, masks["layers"])
            result[which] = Scores(
                layers=layers,
                hidden=masks["hidden"],
                ffn={layer: masks["ffn"][layer] for layer in layers},
                channels={layer: masks["heads"][layer][:, None].expand(-1, old.head_width) for layer in layers},
                heads={layer: masks["heads"][layer] for layer in layers},
                embed=embed_norms(old, source.state),
            )
        return result

    def resnet_scores(
        self, source: "ClipWeights", old: "ResNetTower", new: "ResNetTower", calibration: Any
    ) -> "ResNetScores":
        """The blocks that are kept, and the masks' logarithms of odds."""
        from students.inherit.resnets.scoring import ResNetScores, folded_norms
        from students.inherit.resnets.tower import EMBED
        from students.inherit.scoring.search import learn_masks

        odds = learn_masks(source, {"visual": (old, new)}, calibration)["visual"]
        blocks = [
            [0, *(1 + block for block in largest(after - 1, odds[f"blocks{stage}"]))]
            for stage, after in enumerate(new.depths, start=1)
        ]
        norms = folded_norms(old, source.state, blocks)
        return ResNetScores(blocks, {**odds, EMBED: norms[EMBED]})

    def pick(self, n: int, k: int, scores: "Tensor") -> list[int]:
        """The k of largest score."""
        return largest(k, scores)

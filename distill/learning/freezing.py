"""Freezing the text tower at the start of a training: the image tower then learns against text embeddings that stay."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from distill.core.errors import UsageError
from teachers.spec import TeacherFacts


@dataclass(frozen=True)
class TextFreeze:
    """How the text tower is frozen first.

    Attributes:
        steps: how many, from the first.
        against: what stands for the student's text embeddings meanwhile: its "own" tower's, or the first teacher's "stored"
            ones (LiT, arXiv 2111.07991), which saves the text tower's forward pass.
    """

    steps: int
    against: Literal["own", "stored"] = "own"

    def check(self, teachers: dict[str, TeacherFacts], needs_captions: bool, width: int) -> None:
        """Raise UsageError where the text tower cannot be frozen so.

        Args:
            teachers: of the batches.
            needs_captions: whether a loss reads the student's next-token logits.
            width: D of the student.
        """
        if needs_captions:
            raise UsageError(
                "train.freeze_text_steps does not go with a captioner's loss: its decoder needs the text tower."
            )
        if self.against == "own":
            return
        if not teachers:
            raise UsageError(
                "train.frozen_text = 'stored' needs stored teacher embeddings, and the data carries none. Reinforce it first "
                "(distill reinforce), or say --set train.frozen_text=own."
            )
        name, facts = next(iter(teachers.items()))
        if facts.width != width:
            raise UsageError(
                f"train.frozen_text = 'stored' puts the embeddings of {name} ({facts.width} wide) in place of the student's, "
                f"which are {width} wide: say --set student.embed_dim={facts.width}, or --set train.frozen_text=own."
            )


def text_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of a student's text tower: all of its open_clip module's but the image tower's and the scales."""
    clip = getattr(model, "clip", None)
    if not isinstance(clip, nn.Module):
        return []
    return [p for name, p in clip.named_parameters() if not name.startswith(("visual.", "logit_"))]

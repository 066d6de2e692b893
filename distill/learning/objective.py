"""The weighted sum of named losses: the only place where a weight is applied. Presets carry the published mixes."""

from typing import cast

import torch
from torch import Tensor, nn

from distill.core.errors import UsageError, nearest
from distill.learning.embeddings import Embeddings
from distill.learning.loss import LOSSES, Loss, TeacherLoss
from teachers.spec import TeacherFacts

# loss name -> weight. Sources: MobileCLIP arXiv 2311.17049 (lambda = 1, affinity alone), TinyCLIP arXiv 2309.12314,
# CLIP-KD arXiv 2307.12732 (2000 / 1 / 1 with 2000 MSE = 7.8 (1 - cos)), and this project's default for small batches.
PRESETS: dict[str, dict[str, float]] = {
    "clip": {"contrastive": 1.0},
    "coca": {"contrastive": 1.0, "caption": 2.0},  # arXiv 2205.01917 section 3.2, eq. 4
    "mobileclip": {"affinity": 1.0},
    "tinyclip": {"affinity": 1.0},
    "clipkd": {"affinity": 1.0, "feature": 7.8, "interactive": 1.0, "contrastive": 1.0},
    "small-batch": {"affinity": 1.0, "feature": 4.0, "interactive": 1.0},
}
TINYCLIP_SCALE = 50.0  # every released TinyCLIP recipe fixes teacher and student to it


def objective_weights(objective: str | dict[str, float]) -> dict[str, float]:
    """Loss name -> weight for a preset's name or a table of weights. Raises UsageError on an unknown or empty one."""
    if isinstance(objective, str):
        if objective not in PRESETS:
            raise UsageError(f"Unknown objective {objective!r}. {nearest(objective, PRESETS)}")
        return PRESETS[objective]
    for name in objective:
        LOSSES.get(name)
    if not any(weight > 0 for weight in objective.values()):
        raise UsageError(
            "The objective has no loss with a positive weight: give at least one, as in { affinity = 1.0 }."
        )
    return objective


def fixed_scale(objective: str | dict[str, float]) -> float | None:
    """The logit scale that the preset fixes for teacher and student, or None."""
    return TINYCLIP_SCALE if objective == "tinyclip" else None


def refuse_without_teachers(objective: str | dict[str, float]) -> None:
    """Raise UsageError when a loss of the objective compares with teachers: the data has none."""
    weights = objective_weights(objective)
    needing = [name for name, weight in weights.items() if weight > 0 and LOSSES.get(name).needs_teachers]
    if needing:
        raise UsageError(
            f"The objective {objective!r} compares with teachers ({', '.join(needing)}), but the data carries no "
            "teacher embeddings. Reinforce it first (distill reinforce), or train with --set objective=clip."
        )


def refuse_without_decoder(objective: str | dict[str, float], student: str, captions: bool) -> None:
    """Raise UsageError when a loss of the objective needs captions and the student has no caption decoder."""
    needing = [name for name, w in objective_weights(objective).items() if w > 0 and LOSSES.get(name).needs_captions]
    if needing and not captions:
        raise UsageError(
            f"The objective {objective!r} trains a captioner ({', '.join(needing)}), but the student {student!r} has no "
            "caption decoder. Choose one that has: --student coca-vitl14 (see distill list students)."
        )


class Objective(nn.Module):
    """Sum of weight x loss.

    Args:
        objective: a preset's name or a table loss name -> weight.
        student_width: D.
        teacher_facts: of the teachers whose embeddings the batches carry.
    """

    def __init__(
        self, objective: str | dict[str, float], student_width: int, teacher_facts: dict[str, TeacherFacts]
    ) -> None:
        super().__init__()
        self.width = student_width
        self.weights = {name: weight for name, weight in objective_weights(objective).items() if weight > 0}
        if not teacher_facts:
            refuse_without_teachers(objective)
        losses: dict[str, Loss] = {name: LOSSES.get(name)(student_width, teacher_facts) for name in self.weights}
        self.losses = nn.ModuleDict(losses)

    @property
    def needs_teachers(self) -> bool:
        """Whether any of the losses reads teacher embeddings."""
        return any(loss.needs_teachers for loss in self.losses.values())

    @property
    def reads_unpaired(self) -> bool:
        """Whether texts of no image serve: some loss needs no pairs, and none needs captions, of which those have none."""
        return not self.needs_captions and not all(loss.needs_pairs for loss in self.losses.values())

    @property
    def reads_scale(self) -> bool:
        """Whether any of the losses reads the student's own logit scale."""
        return any(loss.reads_scale for loss in self.losses.values())

    def named_losses(self) -> list[tuple[str, Loss]]:
        """(name, loss) in the order of the weights."""
        return [(name, cast(Loss, loss)) for name, loss in self.losses.items()]

    def clamp(self) -> None:
        """Bring the losses' own parameters back into their bounds."""
        for _, loss in self.named_losses():
            loss.clamp()

    @property
    def needs_captions(self) -> bool:
        """Whether any of the losses reads the student's next-token logits."""
        return any(loss.needs_captions for loss in self.losses.values())

    def forward(
        self,
        student: Embeddings,
        teacher_embeds: dict[str, Embeddings],
        weights: Tensor | None = None,
        paired: bool = True,
    ) -> dict[str, Tensor]:
        """Named losses: each by itself, and "loss", their weighted sum. `weights` [b] are those of the pairs.

        Where text i does not belong to image i (`paired` is false), the losses that need it are left out.

        A loss that compares with teachers also stands under "<loss>/<teacher>/image" and ".../text" for each of its sides (of the
        affinity loss the KL of either direction), and with several teachers under "<loss>/<teacher>".
        """
        named: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            if loss.needs_pairs and not paired:
                continue
            if not isinstance(loss, TeacherLoss):
                named[name] = loss(student, teacher_embeds, weights)
                continue
            each = loss.each(student, teacher_embeds, weights)
            named[name] = torch.stack([found.loss for found in each.values()]).mean()
            for teacher, found in each.items():
                if len(each) > 1:
                    parts[f"{name}/{teacher}"] = found.loss.detach()
                parts |= {f"{name}/{teacher}/image": found.image, f"{name}/{teacher}/text": found.text}
        total = torch.stack([self.weights[name] * value for name, value in named.items()]).sum()
        return {"loss": total, **named, **parts}

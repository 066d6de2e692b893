"""What a loss is: a module built from the widths, called with the student's and the teachers' `Embeddings`."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core.registry import Registry
from distill.learning.embeddings import Embeddings
from teachers.spec import TeacherFacts


class Loss(nn.Module):
    """Base of every loss.

    Args:
        student_width: D of the student.
        teacher_facts: of the teachers whose embeddings will come, by name; may be empty for losses that need none.
    """

    needs_teachers = True
    needs_pairs = True  # reads which text belongs to which image; without, it compares any images with any texts
    needs_captions = False  # reads the student's next-token logits, which only a CoCa has

    def __init__(self, student_width: int, teacher_facts: dict[str, TeacherFacts]) -> None:
        super().__init__()

    @property
    def reads_scale(self) -> bool:
        """Whether the student's own logit scale enters the loss, and so learns from it."""
        return False

    def scale(self) -> float | None:
        """The logit scale that the loss keeps for itself, exponentiated; None where it keeps none."""
        return None

    def clamp(self) -> None:
        """Bring the loss's own parameters back into their bounds; called after each optimizer step."""

    def forward(
        self, student: Embeddings, teacher_embeds: dict[str, Embeddings], weights: Tensor | None = None
    ) -> Tensor:
        """The loss, []: zero for a perfect copy wherever the loss compares with teachers.

        `weights` [b] say how much each pair of this rank counts; their mean over all ranks is 1.
        """
        raise NotImplementedError("a loss defines forward")


class Compared(NamedTuple):
    """A loss against one teacher, [], and its two sides by themselves, [] each and without gradient."""

    loss: Tensor
    image: Tensor
    text: Tensor


class TeacherLoss(Loss):
    """Base of a loss that compares with each teacher apart, images on one side and texts on the other.

    The loss against a teacher is the mean over pairs of the two sides' mean (or their sum, where `added`); the loss itself is the
    mean over teachers.
    """

    added = False

    def sides(self, student: Embeddings, name: str, teacher: Embeddings) -> tuple[Tensor, Tensor]:
        """Each pair's value against the teacher `name`, by its image and by its text: [b] and [b]."""
        raise NotImplementedError("a loss of teachers defines sides")

    def each(
        self, student: Embeddings, teacher_embeds: dict[str, Embeddings], weights: Tensor | None = None
    ) -> dict[str, Compared]:
        """Teacher name -> the loss against that teacher."""
        found = {}
        for name, teacher in teacher_embeds.items():
            image, text = self.sides(student, name, teacher)
            both = image + text if self.added else (image + text) / 2
            alone = [mean_over_pairs(side.detach(), weights) for side in (image, text)]
            found[name] = Compared(mean_over_pairs(both, weights), *alone)
        return found

    def forward(
        self, student: Embeddings, teacher_embeds: dict[str, Embeddings], weights: Tensor | None = None
    ) -> Tensor:
        """The mean over teachers, []."""
        return torch.stack([each.loss for each in self.each(student, teacher_embeds, weights).values()]).mean()


def positive_kl(logits: Tensor, student: Embeddings, rows: slice) -> Tensor:
    """Contrastive loss of each row where several columns may be right: KL(uniform over them || softmax), [r, B] -> [r].

    With one right column a row it is InfoNCE. With several it has the gradient of the outer sum of SupCon (Khosla et al.,
    arXiv 2004.11362, eq. 2) and of UniCL (arXiv 2204.03610, eq. 3), less the entropy of the target, so that a perfect
    model scores zero, whose rows would score log(count) if each repeated caption were taken for a wrong answer.

    Args:
        student: whose positives say which columns are right; None = column first + i is right for row i.
        rows: of this rank's pairs, whose logits they are.
    """
    if student.positives is None:
        target = torch.arange(logits.shape[0], device=logits.device) + student.first + (rows.start or 0)
        return F.cross_entropy(logits, target, reduction="none")
    positives = student.positives[rows]
    count = positives.sum(1)
    picked = logits.log_softmax(-1).masked_fill(~positives, 0.0).sum(1)
    return -picked / count - count.log()


def mean_over_pairs(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of the pairs' values [b], each times its weight [b] where there are weights."""
    return values.mean() if weights is None else (weights.to(values) * values).mean()


LOSSES: Registry[type[Loss]] = Registry("loss", ("distill.learning.losses",))

"""Interactive contrastive learning (CLIP-KD, arXiv 2307.12732 section 3.4): the student's anchors against the teacher's bank.

The scale is this loss's own, kept as a logarithm and exponentiated before use (the released code forgets to).
"""

import math

import torch
from torch import Tensor, nn

from distill.learning.embeddings import Embeddings, similarities
from distill.learning.loss import LOSSES, TeacherLoss, positive_kl
from distill.learning.losses.parts.projection import Projections
from distill.learning.scale import HIGHEST_SCALE, clamp_scale
from teachers.spec import TeacherFacts


@LOSSES.register("interactive")
class Interactive(TeacherLoss):
    """InfoNCE of student images against teacher texts and of student texts against teacher images, mean over teachers."""

    def __init__(self, student_width: int, teacher_facts: dict[str, TeacherFacts]) -> None:
        super().__init__(student_width, teacher_facts)
        self.project = Projections(student_width, teacher_facts)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def scale(self) -> float | None:
        """See Loss."""
        return min(HIGHEST_SCALE, self.log_scale.exp().item())

    def clamp(self) -> None:
        """See Loss."""
        clamp_scale(self.log_scale)

    def sides(self, student: Embeddings, name: str, teacher: Embeddings) -> tuple[Tensor, Tensor]:
        """Small when each student embedding is nearest to its own pair in the teacher's space."""
        scale = self.log_scale.exp()
        image, text = self.project(student.image, name, "image"), self.project(student.text, name, "text")
        return (
            student.over_rows(
                lambda rows: positive_kl(similarities(scale * image[rows], teacher.all_text), student, rows)
            ),
            student.over_rows(
                lambda rows: positive_kl(similarities(scale * text[rows], teacher.all_image), student, rows)
            ),
        )

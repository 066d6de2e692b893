"""Interactive contrastive learning (CLIP-KD, arXiv 2307.12732 section 3.4): the student's anchors against the teacher's bank.

The scale is this loss's own, kept as a logarithm and exponentiated before use (the released code forgets to).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.learning.embeddings import Embeddings
from distill.learning.loss import LOSSES, Loss, mean_over_pairs
from distill.learning.losses.parts.projection import Projections
from teachers.spec import TeacherFacts


@LOSSES.register("interactive")
class Interactive(Loss):
    """InfoNCE of student images against teacher texts and of student texts against teacher images, mean over teachers."""

    def __init__(self, student_width: int, teacher_facts: dict[str, TeacherFacts]) -> None:
        super().__init__(student_width, teacher_facts)
        self.project = Projections(student_width, teacher_facts)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, student: Embeddings, teacher_embeds: dict[str, Embeddings], weights: Tensor | None = None
    ) -> Tensor:
        """[]: small when each student embedding is nearest to its own pair in the teacher's space."""
        target = torch.arange(student.image.shape[0], device=student.image.device) + student.first
        scale = self.log_scale.exp().clamp(max=100)
        losses = []
        for name, teacher in teacher_embeds.items():
            image = scale * self.project(student.image, name, "image") @ teacher.all_text.T
            text = scale * self.project(student.text, name, "text") @ teacher.all_image.T
            both = F.cross_entropy(image, target, reduction="none") + F.cross_entropy(text, target, reduction="none")
            losses.append(mean_over_pairs(both / 2, weights))
        return torch.stack(losses).mean()

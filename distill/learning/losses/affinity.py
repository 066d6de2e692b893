"""Affinity mimicking (TinyCLIP, arXiv 2309.12314 eq. 2-4; MobileCLIP, arXiv 2311.17049 eq. 1), per teacher.

Softmax teachers: KL of the teacher's to the student's image-to-text and text-to-image probabilities, each direction by
its own softmax, never a transpose. Sigmoid teachers (SigLIP): every pair is a question of its own, so the true soft
binary cross-entropy, minus the teacher's entropy; the student answers through a scale and bias kept here, since its
own logit scale belongs to its softmax. The mean over teachers equals the probability-averaged ensemble in gradient.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.learning.embeddings import Embeddings
from distill.learning.loss import LOSSES, TeacherLoss
from teachers.spec import TeacherFacts


def softmax_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each row, [b, B] and [b, B] -> [b]."""
    return F.kl_div(
        student_logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)


def sigmoid_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Sum over columns of the binary KL between sigmoid(teacher) and sigmoid(student), [b, B] and [b, B] -> [b]."""
    p = teacher_logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student_logits, p, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(teacher_logits, p, reduction="none")
    return (cross - entropy).sum(-1)


@LOSSES.register("affinity")
class Affinity(TeacherLoss):
    """Half of each direction's divergence, mean over teachers."""

    needs_pairs = False

    def __init__(self, student_width: int, teacher_facts: dict[str, TeacherFacts]) -> None:
        super().__init__(student_width, teacher_facts)
        self._any_softmax = any(facts.kind == "softmax" for facts in teacher_facts.values())
        sigmoid = [facts for facts in teacher_facts.values() if facts.kind == "sigmoid"]
        # Keys hold an index: parameter names may not hold the dots that teacher names may.
        self.sigmoid_index = {facts.name: str(i) for i, facts in enumerate(sigmoid)}
        self.log_scale = nn.ParameterDict(
            {str(i): torch.tensor(math.log(f.logit_scale)) for i, f in enumerate(sigmoid)}
        )
        self.bias = nn.ParameterDict({str(i): torch.tensor(f.logit_bias) for i, f in enumerate(sigmoid)})

    @property
    def reads_scale(self) -> bool:
        """See Loss. Sigmoid teachers are answered through a scale of their own."""
        return self._any_softmax

    def scale(self) -> float | None:
        """See Loss. The mean over sigmoid teachers."""
        scales = [log_scale.exp().item() for log_scale in self.log_scale.values()]
        return sum(scales) / len(scales) if scales else None

    def sides(self, student: Embeddings, name: str, teacher: Embeddings) -> tuple[Tensor, Tensor]:
        """Divergence of image-to-text and of text-to-image probabilities: 0 where the student's equal the teacher's."""
        if teacher.kind == "sigmoid":
            index = self.sigmoid_index[name]
            divergence = sigmoid_kl
            own = replace(student, logit_scale=self.log_scale[index].exp(), logit_bias=self.bias[index])
        else:
            divergence, own = softmax_kl, student
        image = own.over_rows(lambda rows: divergence(teacher.image_logits(rows), own.image_logits(rows)))
        text = own.over_rows(lambda rows: divergence(teacher.text_logits(rows), own.text_logits(rows)))
        return image, text

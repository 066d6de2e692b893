"""`DistillTask`: everything trainable in one module (the model and the objective's own parameters), nothing frozen.

Stored and live teachers look the same from here: a batch carries teacher embeddings, or none.
"""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from distill.embeddings import Embeddings, embeddings
from distill.loss import TeacherFacts
from distill.objective import Objective


class TwoTowers(Protocol):
    """What is trained: a student, a full teacher, or alignment heads over frozen towers."""

    logit_scale: Tensor

    def encode_image(self, images: Tensor) -> Tensor:
        """[b, ...] -> [b, D], unit length."""
        ...

    def encode_text(self, texts: Tensor) -> Tensor:
        """[b, ...] -> [b, D], unit length."""
        ...


class DistillTask(nn.Module):
    """Forward pass and loss.

    Args:
        model: a `TwoTowers` module.
        objective: the losses.
        teachers: facts of the teachers whose embeddings the batches carry.
        scale: fixes the logit scale of student and softmax teachers (the tinyclip preset), None = learned and own.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, teachers: dict[str, TeacherFacts], scale: float | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.teachers = teachers
        self.scale = scale

    def forward(
        self, images: Tensor, texts: Tensor, teacher_image: dict[str, Tensor], teacher_text: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Named losses of one batch, see `Objective.forward`.

        Args:
            images: [b, 3, H, W] in [0, 1], or [b, F] features.
            texts: LongTensor [b, L], or [b, F] features.
            teacher_image, teacher_text: teacher name -> [b, D_t], unit length.
        """
        model: TwoTowers = self.model  # type: ignore[assignment]
        own_scale = model.logit_scale.clamp(max=100)  # CLIP section 2.5: never above 100
        scale = own_scale if self.scale is None else torch.full_like(own_scale, self.scale)
        student = self._student(model, images, texts, scale)
        teachers = {}
        for name, facts in self.teachers.items() if self.objective.needs_teachers else ():
            factor = self.scale if self.scale is not None and facts.kind == "softmax" else facts.logit_scale
            with torch.no_grad():
                teachers[name] = embeddings(
                    teacher_image[name],
                    teacher_text[name],
                    torch.tensor(factor, device=images.device),
                    torch.tensor(facts.logit_bias, device=images.device),
                    facts.kind,
                )
        losses: dict[str, Tensor] = self.objective(student, teachers)
        return losses

    def _student(self, model: TwoTowers, images: Tensor, texts: Tensor, scale: Tensor) -> Embeddings:
        if not self.objective.needs_captions:
            return embeddings(model.encode_image(images).float(), model.encode_text(texts).float(), scale)
        image, text, logits, labels = model.encode_pair(images, texts)  # type: ignore[attr-defined]
        own = embeddings(image.float(), text.float(), scale)
        return replace(own, caption_logits=logits.float(), caption_labels=labels)

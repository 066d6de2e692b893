"""InfoNCE over the global batch, as in CLIP (arXiv 2103.00020, figure 3). Needs no teacher."""

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.learning.embeddings import Embeddings
from distill.learning.loss import LOSSES, Loss, mean_over_pairs


@LOSSES.register("contrastive")
class Contrastive(Loss):
    """Mean of the image-to-text and text-to-image cross-entropies against the matching pair."""

    needs_teachers = False

    def forward(
        self, student: Embeddings, teacher_embeds: dict[str, Embeddings], weights: Tensor | None = None
    ) -> Tensor:
        """[]: 0 only in the limit of perfect separation."""
        target = torch.arange(student.image.shape[0], device=student.image.device) + student.first
        image = F.cross_entropy(student.image_logits(), target, reduction="none")
        text = F.cross_entropy(student.text_logits(), target, reduction="none")
        return mean_over_pairs((image + text) / 2, weights)

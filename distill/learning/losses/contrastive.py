"""InfoNCE over the global batch, as in CLIP (arXiv 2103.00020, figure 3). Needs no teacher."""

from torch import Tensor

from distill.learning.embeddings import Embeddings
from distill.learning.loss import LOSSES, Loss, mean_over_pairs, positive_kl


@LOSSES.register("contrastive")
class Contrastive(Loss):
    """Mean of the image-to-text and text-to-image losses against the matching pair; equal captions and images match too."""

    needs_teachers = False

    @property
    def reads_scale(self) -> bool:
        """See Loss."""
        return True

    def forward(
        self, student: Embeddings, teacher_embeds: dict[str, Embeddings], weights: Tensor | None = None
    ) -> Tensor:
        """[]: 0 only in the limit of perfect separation."""
        image = student.over_rows(lambda rows: positive_kl(student.image_logits(rows), student, rows))
        text = student.over_rows(lambda rows: positive_kl(student.text_logits(rows), student, rows))
        return mean_over_pairs((image + text) / 2, weights)

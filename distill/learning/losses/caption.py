"""The captioning loss of CoCa (arXiv:2205.01917 section 3.2, eq. 3): each token from the image and the tokens before it.

Eq. 3 sums over a caption's tokens; here, as in open_clip, it is the mean over all tokens of the batch, so that a weight
means the same at every caption length. Padding is no token. Needs no teacher, but a student with a caption decoder.
"""

from torch import Tensor
from torch.nn import functional as F

from distill.learning.embeddings import Embeddings
from distill.learning.loss import LOSSES, Loss


@LOSSES.register("caption")
class Caption(Loss):
    """Mean cross-entropy of the next tokens of the captions, end marker included."""

    needs_teachers = False
    needs_captions = True

    def forward(
        self, student: Embeddings, teacher_embeds: dict[str, Embeddings], weights: Tensor | None = None
    ) -> Tensor:
        """[]: 0 only when every next token is certain. A pair's weight is that of its tokens."""
        if student.caption_logits is None or student.caption_labels is None:
            raise ValueError("the caption loss was called without caption logits")
        labels = student.caption_labels
        each = F.cross_entropy(student.caption_logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        if weights is not None:
            each = each * weights.to(each)[:, None]
        tokens = (labels != -100).sum() if student.caption_tokens is None else student.caption_tokens
        return each.sum() / tokens.clamp(min=1)

"""What a loss is: a module built from the widths, called with the student's and the teachers' `Embeddings`."""

from torch import Tensor, nn

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
    needs_captions = False  # reads the student's next-token logits, which only a CoCa has

    def __init__(self, student_width: int, teacher_facts: dict[str, TeacherFacts]) -> None:
        super().__init__()

    def forward(
        self, student: Embeddings, teacher_embeds: dict[str, Embeddings], weights: Tensor | None = None
    ) -> Tensor:
        """The loss, []: zero for a perfect copy wherever the loss compares with teachers.

        `weights` [b] say how much each pair of this rank counts; their mean over all ranks is 1.
        """
        raise NotImplementedError("a loss defines forward")


def mean_over_pairs(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of the pairs' values [b], each times its weight [b] where there are weights."""
    return values.mean() if weights is None else (weights.to(values) * values).mean()


LOSSES: Registry[type[Loss]] = Registry("loss", ("distill.learning.losses",))

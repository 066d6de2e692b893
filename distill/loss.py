"""What a loss is: a module built from the widths, called with the student's and the teachers' `Embeddings`."""

from dataclasses import dataclass

from torch import Tensor, nn

from distill.core.registry import Registry
from distill.embeddings import Embeddings


@dataclass(frozen=True)
class TeacherFacts:
    """What a loss may know of a teacher: embedding width D_t, kind, scale (exponentiated) and bias."""

    name: str
    width: int
    kind: str
    logit_scale: float
    logit_bias: float


class Loss(nn.Module):
    """Base of every loss.

    Args:
        student_width: D of the student.
        teachers: the teachers whose embeddings will come, by name; may be empty for losses that need none.
    """

    needs_teachers = True
    needs_captions = False  # reads the student's next-token logits, which only a CoCa has

    def __init__(self, student_width: int, teachers: dict[str, TeacherFacts]) -> None:
        super().__init__()

    def forward(self, student: Embeddings, teachers: dict[str, Embeddings]) -> Tensor:
        """The loss, []: zero for a perfect copy wherever the loss compares with teachers."""
        raise NotImplementedError("a loss defines forward")


LOSSES: Registry[type[Loss]] = Registry("loss", ("distill.losses",))

"""Feature mimicry (CLIP-KD, arXiv 2307.12732 section 3.2), in the form 1 - cos so that a weight means the same at any width.

Their 2000 x mean squared error at D = 512 is a weight of 7.8 in this form, per tower.
"""

from torch import Tensor
from torch.nn import functional as F

from distill.learning.embeddings import Embeddings
from distill.learning.loss import LOSSES, TeacherLoss
from distill.learning.losses.parts.projection import Projections
from teachers.spec import TeacherFacts


@LOSSES.register("feature")
class Feature(TeacherLoss):
    """1 - cos between the (projected) student's and the teacher's embedding, both towers added, mean over teachers."""

    needs_pairs = False
    added = True

    def __init__(self, student_width: int, teacher_facts: dict[str, TeacherFacts]) -> None:
        super().__init__(student_width, teacher_facts)
        self.project = Projections(student_width, teacher_facts)

    def sides(self, student: Embeddings, name: str, teacher: Embeddings) -> tuple[Tensor, Tensor]:
        """0 where an embedding equals the teacher's, at most 2."""
        image = F.cosine_similarity(self.project(student.image, name, "image"), teacher.image)
        text = F.cosine_similarity(self.project(student.text, name, "text"), teacher.text)
        return 1 - image, 1 - text

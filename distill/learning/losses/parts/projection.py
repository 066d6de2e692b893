"""The map from the student's width to a teacher's, shared by the losses that compare embeddings directly."""

from torch import Tensor, nn
from torch.nn import functional as F

from teachers.spec import TeacherFacts


class Projections(nn.Module):
    """One linear map per teacher and tower, left out where the widths agree; used in training only.

    Args:
        student_width: D.
        teacher_facts: by name, each with its width D_t.
    """

    def __init__(self, student_width: int, teacher_facts: dict[str, TeacherFacts]) -> None:
        super().__init__()
        # Parameter names may not hold the dots that teacher names may, hence the index.
        self._index = {name: str(i) for i, name in enumerate(teacher_facts)}
        self.maps = nn.ModuleDict()
        for name, facts in teacher_facts.items():
            if facts.width != student_width:
                for tower in ("image", "text"):
                    self.maps[f"{self._index[name]}_{tower}"] = nn.Linear(student_width, facts.width, bias=False)

    def forward(self, embedding: Tensor, teacher: str, tower: str) -> Tensor:
        """[b, D] -> [b, D_t], unit length."""
        key = f"{self._index[teacher]}_{tower}"
        return F.normalize(self.maps[key](embedding), dim=-1) if key in self.maps else embedding

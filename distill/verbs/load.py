"""Loading one model by name or folder, for those who work on it in Python."""

from pathlib import Path
from typing import TYPE_CHECKING

from distill.verbs.flags import AnyPath

if TYPE_CHECKING:
    from students.student import Student
    from teachers.teacher import Teacher


def load_teacher(name: AnyPath, *, random_weights: bool = False, seed: int = 0) -> "Teacher":
    """A frozen teacher: a name of `distill list teachers`, "open_clip:MODEL/TAG", or a folder.

    Args:
        random_weights: full size, without its weights: to try things offline.
        seed: of the random weights.

    Raises:
        UsageError: nothing is called so. DistillError: its weights are not here and cannot be had.
    """
    from distill.models import TeacherSet

    return TeacherSet((str(name),), random_weights=random_weights, seed=seed).loaded[0]


def load_student(folder: AnyPath) -> "Student":
    """A trained student: from a run folder, from the student/ folder inside one, or "student:NAME@FILE" from a checkpoint file.

    Raises:
        UsageError: there is no such folder or file. DistillError: it holds no trained student.
    """
    from distill.stages.training.checkpoint_files import KEY, parts
    from students.checkpoints.read import read_student

    if str(folder).startswith(f"{KEY}:"):
        return read_student(*parts(str(folder).removeprefix(f"{KEY}:"), f"{KEY}:NAME@FILE"))
    from distill.stages.train import model_folder
    from students.student import load_student as load

    return load(model_folder(Path(folder).expanduser()))

"""`distill eval`: retrieval and zero-shot figures of a student, a run, or any teacher."""

from pathlib import Path
from typing import Any

from distill.console import Console
from distill.recipe import Recipe


def evaluate(model: str, recipe: Recipe | None = None, *, console: Console | None = None) -> dict[str, Any]:
    """The figures of one model on the evaluation data of a recipe: see `distill.evaluation.metrics`.

    Args:
        model: a run or student folder, or a teacher's name.
        recipe: its data and eval tables are read; None = the embedded default's.

    Raises:
        UsageError: neither a folder nor a teacher is called so, or the data is not there.
    """
    from distill.evaluation.evalset import evaluate_model, student_embedder, teacher_embedder
    from distill.models import TeacherSet
    from distill.stages.evaluate import open_evalset
    from distill.stages.train import model_folder
    from students.student import load_student

    recipe, console = recipe or Recipe(), console or Console()
    path = Path(model)
    if path.is_dir() and not (path / "teacher.json").exists() and not (path / "teacher" / "teacher.json").exists():
        folder = model_folder(path)
        embedder = student_embedder(load_student(folder), model)
    else:
        embedder = teacher_embedder(TeacherSet((model,), random_weights=False, seed=0).loaded[0])
    with console.stage("evaluate"):
        return evaluate_model(embedder, open_evalset(recipe), recipe.eval.batch_size)

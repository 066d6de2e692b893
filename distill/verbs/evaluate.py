"""`distill eval`: retrieval and zero-shot figures of a student, a run, or any teacher."""

from pathlib import Path

from distill.console import Console
from distill.core.strict import Settings
from distill.run_folder import RunFolder
from distill.verbs.flags import AnyPath, RecipeLike, recipe_of
from distill.verbs.results import EvalResult


def evaluate(
    model: AnyPath,
    recipe: RecipeLike = None,
    *,
    data: AnyPath | None = None,
    split: str | None = None,
    settings: Settings = (),
    console: Console | None = None,
) -> EvalResult:
    """The figures of one model on the evaluation data of a recipe: see `distill.evaluation.metrics`.

    Args:
        model: a run or student folder, or a teacher's name.
        recipe: its data and eval tables are read; None = the embedded default's.
        data: where the samples lie; all of them are used, or its evaluation part where it names one.
        split: the part of the data to use instead ("test", "val", "train").
        settings: as of `distill.run`.

    Raises:
        UsageError: neither a folder nor a teacher is called so, or the data is not there.
    """
    from distill.evaluation.evalset import evaluate_model, student_embedder, teacher_embedder
    from distill.models import TeacherSet
    from distill.processes import stage_device, this_place
    from distill.stages.evaluate import open_evalset, open_evaluation
    from distill.stages.read_data import told_how_read
    from distill.stages.train import model_folder
    from students.student import load_student

    made_by = RunFolder(model) if recipe is None and data is not None else None
    trained = made_by.read_recipe().data if made_by and made_by.resolved.exists() else None  # judge by what it held out
    job = recipe_of(recipe, settings, data=trained, eval_data=data, eval_split=split)
    path, name, console = Path(model).expanduser(), str(model), console or Console()
    device = stage_device(job.eval.device, this_place())
    opened = open_evaluation(job)  # before a teacher is downloaded
    heads = (path / "teacher.json", RunFolder(path).teacher / "teacher.json")
    if path.is_dir() and not any(file.exists() for file in heads):
        embedder = student_embedder(load_student(model_folder(path)).to(device), name)
    else:
        embedder = teacher_embedder(TeacherSet((name,), random_weights=False, seed=0).on(device)[0])
    told = {}
    for role, place, source in opened:
        told[role] = told_how_read(f"{role} data", place, source, console)
    console.say(f"{name} is judged on {device}.")
    with console.stage("evaluate"):
        return EvalResult(**evaluate_model(embedder, open_evalset(job), job.eval.batch_size), read_as=told)

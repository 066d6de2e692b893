"""The classes that a run was judged by, for whoever uses its student: names, templates and embeddings, in out/classes/.

A run whose data knows its pictures by class alone makes a classifier: its exports have one too, without being asked. Left out:
the figures of each class, which stand in out/eval/.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.console import Console
from distill.core import atomic
from distill.core.errors import DistillError
from distill.recipe import Recipe
from distill.run_folder import RunFolder

if TYPE_CHECKING:
    from export.app.classes import Classes

EMBEDDINGS = "embeddings.safetensors"
RECORD = "classes.json"
SOFTMAX = "softmax"  # the kind of every student, see `Student.save`


@dataclass(frozen=True)
class OwnClasses:
    """What out/classes/ holds.

    Attributes:
        classes: labels and templates.
        alone: whether the run was judged by its classes alone; then it is a classifier job.
    """

    classes: "Classes"
    alone: bool


def classes_stage(recipe: Recipe, run: RunFolder, console: Console) -> None:
    """Write out/classes/ where the evaluation has classes: labels.txt, the labels' embeddings by the student, classes.json."""
    from safetensors.numpy import save_file

    from distill.evaluation.evalset import student_embedder
    from distill.evaluation.predict import text_embeddings
    from distill.stages.evaluate import open_evalset
    from export.app.classes import LABELS_FILE, Classes
    from export.artifacts.folder import student_digest
    from students.student import load_student

    figures = atomic.read_json(run.eval_of("student"))
    digest = student_digest(run.student)
    record = run.classes / RECORD
    if not figures["zero_shot"] or (record.exists() and atomic.read_json(record)["student_sha256"] == digest):
        return
    with console.stage("keep the classes"):
        task = open_evalset(recipe).task
        assert task is not None  # it has figures
        if len(set(task.class_names)) < len(task.class_names):
            console.say("Some classes have one name, so there is no labels.txt: rename them to get one.")
            return
        student = load_student(run.student)
        labels, templates = task.class_names, task.templates
        rows = text_embeddings(student_embedder(student, "student"), labels, templates)
        with atomic.staged_dir(run.classes) as folder:
            Classes(labels, templates).write(folder, SOFTMAX)
            save_file({"labels": rows.astype("float32")}, folder / EMBEDDINGS)
            about = {
                "task": task.name,
                "labels": LABELS_FILE,
                "templates": list(templates),
                "embeddings": f"{EMBEDDINGS}: labels [k, D] float32, unit length, in the order of {LABELS_FILE}",
                "logit_scale": float(student.logit_scale.detach()),
                "alone": figures["retrieval"] is None,
                "student_sha256": digest,
            }
            atomic.write_json(folder / RECORD, about)


def own_classes(run: RunFolder) -> OwnClasses | None:
    """The classes that a run keeps of its student; None where it keeps none.

    Raises DistillError where labels and record do not fit each other.
    """
    from export.app.classes import LABELS_FILE, Classes

    if not (run.classes / RECORD).exists():
        return None
    record = atomic.read_json(run.classes / RECORD)
    try:
        classes = Classes.read(run.classes / LABELS_FILE, tuple(record["templates"]))
    except DistillError as error:
        raise DistillError(f"{error} Or remove {str(run.classes)!r} and have it made again: {run.command()}.") from None
    return OwnClasses(classes, bool(record["alone"]))

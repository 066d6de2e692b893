"""The exported files of a run, parity proven on the evaluation's own images and captions."""

from distill.console import Console
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evalset


def export_stage(recipe: Recipe, run: RunFolder, console: Console, *, again: bool = False) -> None:
    """out/export/<target>-<precision>/ for every target, parity proven on the evaluation's own images and captions."""
    from distill.core.clip.folder import read_card
    from distill.evaluation.evalset import pixels
    from export.run import export_student
    from export.target import chosen_targets
    from students.student import load_student

    settings = recipe.export
    if not settings.targets:
        return
    for target in chosen_targets(settings.targets, settings.precisions):  # before anything is loaded
        target.require_packages()
    with console.stage("export and check parity"):
        student = load_student(run.student)
        data = open_evalset(recipe)
        images = [(sample.key, sample.image) for sample in data.samples]
        texts = [sample.captions[0].text for sample in data.samples]
        if data.task is not None and len(images) < 2:
            images = [(f"{data.task.name}-{i}", image) for i, image in enumerate(data.task.images)]
            texts = [data.task.templates[0].format(name) for name in data.task.class_names]
        n = settings.parity_samples
        card = read_card(run.student)
        provenance = {"student": card["name"], "teachers": card.get("teachers", []), "objective": card.get("objective")}
        if recipe.rehearse:
            provenance["rehearsal"] = True
        export_student(
            run.student,
            run.export,
            settings,
            pixels=pixels(images[:n], student.image_size, student.spec.resize_mode, student.spec.interpolation),
            tokens=student.tokenize(texts[:n]).numpy().astype("int32"),
            licence=card.get("licence", "unknown: the student's card names none"),
            provenance=provenance,
            resume=not again,
            captions=texts[:n],
            photos=[photo for _, photo in images[:n]],
            progress=lambda done, total, note: console.say(note),
        )

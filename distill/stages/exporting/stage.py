"""The exported files of a run, parity proven on the evaluation's own images and captions."""

from pathlib import Path
from typing import TYPE_CHECKING

from distill.console import Console
from distill.core.errors import UsageError
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.exporting.auto import choose
from distill.stages.exporting.samples import ImagesAndCaptions, calibration_samples, parity_samples
from distill.stages.exporting.sensitivity import measure
from export.settings import NO_CLASSES

if TYPE_CHECKING:
    from distill.core.arrays import Array
    from export.app.classes import Classes
    from export.artifacts.record import Tower
    from export.settings import ExportSettings
    from export.target import Target
    from export.towers.image_model import ImageModel
    from students.student import Student


def export_stage(recipe: Recipe, run: RunFolder, console: Console, *, again: bool = False) -> None:
    """out/export/<target>-<precision>/ for every target, parity proven on the evaluation's own images and captions."""
    from distill.core.clip.folder import read_card
    from export.run import export_student
    from export.target import chosen_targets
    from export.towers.image_model import ImageModel

    settings = recipe.export
    targets = chosen_targets(settings.targets, settings.precisions)
    for target in targets:  # before anything is loaded
        target.require_packages()
        target.configured(settings)
    if not targets:
        return
    classes = classes_of(settings) or of_the_run(settings, run, console)
    with console.stage("export and check parity"):
        student, card = _loaded(run.student), read_card(run.student)
        if isinstance(student, ImageModel):
            _refuse_text(student, classes, targets)
        elif classes is not None:
            classes.check_fit(student.tokenizer, student.context_length)
        samples = parity_samples(recipe, settings.parity_samples, console)
        calibration, learned_from = None, None
        if any(target.learns for target in targets):
            learned_from = calibration_samples(recipe, settings.calibration_samples, console)
            calibration = inputs_of(student, learned_from)
        provenance = {"student": card["name"], "teachers": card.get("teachers", []), "objective": card.get("objective")}
        provenance |= {key: card[key] for key in ("origin", "weights_sha256") if key in card}
        provenance["samples"] = samples.terms
        if learned_from is not None:
            provenance["calibrated_on"] = learned_from.terms
        if recipe.rehearse:
            provenance["rehearsal"] = True
        pixels, tokens = inputs_of(student, samples)

        def make(names: tuple[str, ...], out: Path, resume: bool, kept: "dict[Tower, list[str]] | None" = None) -> None:
            export_student(
                run.student,
                out,
                settings.model_copy(update={"targets": names, "precisions": ()}),
                pixels=pixels,
                tokens=tokens,
                calibration=calibration,
                licence=card.get("licence", "unknown: the student's card names none"),
                provenance=provenance,
                resume=resume,
                classes=classes,
                captions=() if tokens is None else samples.captions,
                photos=[photo for _, photo in samples.images],
                fits=() if tokens is None else samples.fits,
                kept=kept,
                progress=lambda done, total, note: console.say(note),
            )

        named = tuple(target.folder for target in targets if not target.auto)
        if named:
            make(named, run.export, not again)
        for target in targets:
            if target.auto:
                choose(
                    recipe,
                    run,
                    target,
                    lambda name, out, kept=None: make((name,), out, True, kept),
                    console,
                    lambda precision: measure(run.student, precision, (pixels, tokens), calibration),
                )


def classes_of(settings: "ExportSettings") -> "Classes | None":
    """The labels of a classifier, where settings name a file of them. Raises UsageError where it, or a template, is wrong."""
    from export.app.classes import Classes

    return (
        None
        if settings.classes in (None, NO_CLASSES)
        else Classes.read(Path(settings.classes).expanduser(), settings.templates)
    )


def of_the_run(settings: "ExportSettings", run: RunFolder, console: Console) -> "Classes | None":
    """The labels of a run that was judged by classes alone: it makes a classifier, and an app wants one."""
    from distill.stages.exporting.classes import own_classes

    own = own_classes(run)
    if own is None or not own.alone or settings.classes == NO_CLASSES:
        return None
    console.say(
        f"The data knows its pictures by {len(own.classes.labels)} classes alone, so each target gets a classifier of them too "
        f"(without: --set export.classes={NO_CLASSES})."
    )
    return own.classes


def _loaded(folder: Path) -> "Student | ImageModel":
    from export.towers.image_model import is_image_model, load_image_model
    from students.student import load_student

    return load_image_model(folder) if is_image_model(folder) else load_student(folder)


def _refuse_text(model: "ImageModel", classes: "Classes | None", targets: "list[Target]") -> None:
    """Raise UsageError for what needs a text tower."""
    if classes is not None:
        raise UsageError(
            f"{model.name} has no text tower, which labels are embedded with (export.classes). Leave --classes away, or export an "
            "image-text model."
        )
    if any(target.auto for target in targets):
        raise UsageError(
            f'The precision "auto" judges files by retrieval and zero-shot, and {model.name} has no text tower. Name a precision.'
        )


def inputs_of(student: "Student | ImageModel", samples: ImagesAndCaptions) -> "tuple[Array, Array | None]":
    """Pixels [n, 3, S, S] float32 and tokens [m, L] int32, as the model wants both; no tokens without a text tower."""
    from distill.evaluation.evalset import pixels
    from export.towers.image_model import ImageModel

    if isinstance(student, ImageModel):
        shape = (student.image_size, student.resize_mode, student.interpolation, student.resize_to)
        return pixels(samples.images, *shape), None

    how = (student.image_size, student.spec.resize_mode, student.spec.interpolation)
    return pixels(samples.images, *how), student.tokenize(samples.captions).numpy().astype("int32")

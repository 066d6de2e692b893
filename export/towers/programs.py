"""The common first half of every export: the student's towers as saved torch.export programs, and the reference
embeddings.

Done once for all targets, so that each converts the very same graph and needs neither open_clip nor the student. Left
out: anything that one target wants and another does not.
"""

import itertools
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.core.arrays import Array
from distill.core.clip.folder import read_card
from distill.core.errors import DistillError, UsageError
from export.app.form import Form, PixelType, batches
from export.app.kit import AppKit
from export.app.preprocess import preprocess_block
from export.app.samples import Samples
from export.artifacts.record import Tower
from export.towers.parity import Reference

if TYPE_CHECKING:
    from students.student import Student

REFERENCE_FILE = "reference.npz"
CALIBRATION_FILE = "calibration.npz"  # name of an input -> [n, ...]
BATCH = 16


def check_inputs(pixels: Array, tokens: Array | None) -> None:
    """Raise UsageError where the parity inputs are not real batch inputs of the documented kind.

    Args:
        tokens: None of a model without text tower.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != np.float32 or not len(pixels):
        raise UsageError(f"Parity pixels must be float32 [n, 3, S, S]; these are {pixels.dtype} {list(pixels.shape)}.")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise UsageError(f"Parity pixels must lie in [0, 1]; these lie in [{pixels.min():.3g}, {pixels.max():.3g}].")
    if tokens is not None and (tokens.ndim != 2 or tokens.dtype != np.int32 or not len(tokens)):
        raise UsageError(f"Parity tokens must be int32 [m, L]; these are {tokens.dtype} {list(tokens.shape)}.")


def _check_fit(student: "Student", pixels: Array, tokens: Array) -> None:
    wanted_pixels = (3, student.image_size, student.image_size)
    if pixels.shape[1:] != wanted_pixels or tokens.shape[1] != student.context_length:
        raise UsageError(
            f"The parity inputs do not fit the student: it takes pixels [n, {', '.join(map(str, wanted_pixels))}] and "
            f"tokens [m, {student.context_length}], and was given {list(pixels.shape)} and {list(tokens.shape)}."
        )


Programs = dict[str, dict[Tower, str]]  # a form's graph -> tower -> path of its program


def write_programs(student_dir: Path, folder: Path, given: Samples, forms: Iterable[Form] = (Form(),)) -> Programs:
    """Load the student, check its deployable towers against it, and write a program of each for every form's graph,
    `folder`/reference.npz and what an app needs beside the files (`AppKit`); with classes, those of a classifier too.

    Raises:
        DistillError: for a student that cannot be exported, or towers that differ from it by more than 1e-4.
        UsageError: for parity inputs of another size than the student's, or a label that is too long.
    """
    import torch

    from export.app.golden import probabilities
    from export.towers.classifier import Classifier, check_classifier, label_embeddings, template_embeddings
    from export.towers.image_model import image_model_towers, is_image_model, load_image_model
    from export.towers.tower import check_towers, deployable_towers
    from students.student import load_student

    if is_image_model(student_dir):
        model = load_image_model(student_dir)
        if given.classes is not None:
            raise UsageError(f"{model.name} has no text tower, which labels are embedded with. Leave the labels away.")
        if given.pixels.shape[2:] != (model.image_size, model.image_size):
            raise UsageError(
                f"The parity inputs do not fit {model.name}, which takes squares of {model.image_size} pixels."
            )
        alone, reference = image_model_towers(model, given)
        block = preprocess_block(model.image_size, model.resize_mode, model.interpolation, model.resize_to)
        AppKit.write_alone(block, model.labels, model.classes, folder)
        reference.save(folder / REFERENCE_FILE)
        return _write_all(alone, reference, forms, folder)
    student, pixels, tokens, classes = load_student(student_dir), given.pixels, given.tokens, given.classes
    _check_fit(student, pixels, tokens)
    image, text = deployable_towers(student)
    pixel_tensor, token_tensor = torch.from_numpy(pixels), torch.from_numpy(tokens)
    check_towers(student, image, text, pixel_tensor[:4], token_tensor[:4])
    with torch.no_grad():
        image_embeddings = torch.cat([student.encode_image(part) for part in torch.split(pixel_tensor, BATCH)])
        text_embeddings = torch.cat([student.encode_text(part.long()) for part in torch.split(token_tensor, BATCH)])
    kit = AppKit.write(student, read_card(student_dir).get("kind", "softmax"), folder, classes)
    fits = np.array(given.fits, np.int64) if len(given.fits) else None
    reference = Reference(pixels, tokens, image_embeddings.numpy(), text_embeddings.numpy(), fits=fits)
    modules: dict[Tower, torch.nn.Module] = {"image": image, "text": text}
    if classes is not None:
        each = template_embeddings(student, classes)
        scale, bias, kind = float(student.logit_scale.detach()), kit.logit_bias or 0.0, kit.kind
        labels = label_embeddings(each)
        classifier = Classifier(image, labels, scale, bias, kind).eval()
        few, templates = image_embeddings[:4], classes.templates
        check_classifier(classifier, pixel_tensor[:4], few, each, templates, scale=scale, bias=bias, kind=kind)
        modules["classifier"] = classifier
        reference = replace(reference, probabilities=probabilities(reference.image, labels.numpy(), scale, bias, kind))
    reference.save(folder / REFERENCE_FILE)
    del student
    return _write_all(modules, reference, forms, folder)


def _write_all(modules: "Mapping[Tower, Any]", reference: Reference, forms: Iterable[Form], folder: Path) -> Programs:
    made: Programs = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecating its own internals while it exports and saves
        for form in {form.graph: form for form in forms}.values():
            made[form.graph] = {}
            for tower, module in modules.items():
                path = folder / f"{tower}-{form.graph}.pt2"
                _write(module, tower, form, reference, path)
                made[form.graph][tower] = str(path)
    return made


def _write(module: Any, tower: Tower, form: Form, reference: Reference, path: Path) -> None:
    """Save a tower as a program of a form, which is checked against the reference."""
    import torch

    from export.towers.faults import check_program
    from export.towers.tower import check_form

    pixels: PixelType = "float" if form.graph.startswith("float") else "uint8"
    if tower != "text":
        module = module.taking(form)
    inside = replace(form, pixels=pixels)  # a picture's graph is that of floats
    largest = max(one.batch for one in form.each)
    (rows,) = itertools.islice(batches(reference.inputs(tower), largest), 1)
    example = torch.from_numpy(np.ascontiguousarray(inside.given(rows)))
    check_form(module, example, reference.outputs(tower)[:largest], tower, rows)
    if form.further:
        # torch takes a size of 1 for fixed, and a range of one number too: hence one that is larger than needed.
        size = torch.export.Dim("batch", min=1, max=2 * largest)
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=[{0: size}])
        except (ValueError, RuntimeError) as error:  # torch's own say that a size is not free
            raise DistillError(
                f"The {tower} of this model takes one number of inputs at a call, not several (export.coreml.batches): "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
    else:
        program = torch.export.export(module, (example,))
    check_program(program, tower, None if form.further else form.batch, pixels)
    torch.export.save(program, path)

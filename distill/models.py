"""Building what a recipe names: teachers (lazily, once), the student, and its inherited start."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError, UsageError
from distill.recipe import StudentRecipe
from students.inherit.start import COPY, NONE, TOWERS, Terms, check_strategy, start_from
from students.spec import STUDENTS, StudentSpec
from students.vocabularies.cut import refuse_few_byte_pairs, size_of
from teachers.captioner import CaptionSettings
from teachers.load import load_teacher, resolve_teacher
from teachers.load_captioner import load_captioner, resolve_captioner

if TYPE_CHECKING:
    from distill.core.clip.weights import ClipWeights
    from students.inherit.calibration import Calibration
    from students.student import Student
    from teachers.captioner import Captioner
    from teachers.teacher import Teacher


class TeacherSet:
    """The recipe's teachers: specs at once (so that a wrong name fails early), weights when first needed.

    Args:
        names: of teachers, see `teachers.load`.
        random_weights, seed: as of `teachers.load.load_teacher`.

    Raises UsageError for an unknown name and for one that stands twice.
    """

    def __init__(self, names: tuple[str, ...], *, random_weights: bool, seed: int) -> None:
        _refuse_twins("teacher", names)
        self.specs = [resolve_teacher(name) for name in names]
        self._random, self._seed = random_weights, seed

    @cached_property
    def loaded(self) -> "list[Teacher]":
        """The frozen models, in order."""
        return [load_teacher(spec, random_weights=self._random, seed=self._seed) for spec in self.specs]

    def on(self, device: str) -> "list[Teacher]":
        """The frozen models, in order, on a torch device."""
        return [teacher.to(device) for teacher in self.loaded]

    def rest(self) -> None:
        """Let go of any GPU: what is loaded goes back to the host's memory, so that training has the device to itself."""
        if "loaded" in self.__dict__:
            self.on("cpu")


class CaptionerSet:
    """The recipe's captioners, as `TeacherSet` has its teachers.

    Args:
        names: of captioners, see `teachers.load_captioner`.
        settings: how they decode.
        random_weights, seed: as of `teachers.load_captioner.load_captioner`.

    Raises UsageError for an unknown name and for one that stands twice.
    """

    def __init__(self, names: tuple[str, ...], settings: CaptionSettings, *, random_weights: bool, seed: int) -> None:
        _refuse_twins("captioner", names)
        self.specs = [resolve_captioner(name) for name in names]
        self._settings, self._random, self._seed = settings, random_weights, seed

    @cached_property
    def loaded(self) -> "list[Captioner]":
        """The frozen models, in order."""
        return [
            load_captioner(spec, self._settings, random_weights=self._random, seed=self._seed) for spec in self.specs
        ]


def _refuse_twins(noun: str, names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names):
        raise UsageError(f"A {noun} is named twice: {', '.join(names)}.")


def student_spec(recipe: StudentRecipe) -> StudentSpec:
    """The architecture that a recipe names, with its overrides. Raises UsageError for an image size that cuts a patch."""
    spec = STUDENTS.get(recipe.name).resized(
        image_size=recipe.image_size,
        context_length=recipe.context_length,
        text_layers=recipe.text_layers,
        embed_dim=recipe.embed_dim,
    )
    patch = spec.model_cfg["vision_cfg"].get("patch_size")
    if recipe.image_size is not None and isinstance(patch, int) and recipe.image_size % patch:
        near = recipe.image_size - recipe.image_size % patch
        sizes = " or ".join(f"{size}" for size in (near, near + patch) if size)
        raise UsageError(
            f"student.image_size = {recipe.image_size} is no multiple of {recipe.name}'s patches of {patch} pixels: a border "
            f"would never be seen. Take {sizes}."
        )
    if recipe.tokenizer is not None:
        spec = spec.with_tokenizer(recipe.tokenizer)
    if recipe.vocabulary is not None and recipe.vocabulary.endswith(".gz"):
        spec = spec.with_vocabulary(recipe.vocabulary)
    elif recipe.vocabulary is not None:
        size = size_of(recipe.vocabulary)  # refuses what is no choice; the cut itself waits for the captions
        if not spec.model_cfg["text_cfg"].get("hf_tokenizer_name"):
            refuse_few_byte_pairs(size)
        if recipe.corpus is not None and not Path(recipe.corpus).is_file():
            raise UsageError(f"student.corpus: there is no file {recipe.corpus!r}. Name a text file, a caption a line.")
    return spec


def new_student(
    recipe: StudentRecipe,
    teachers: TeacherSet | None,
    seed: int,
    calibrate: "Callable[[Student], Calibration | None] | None" = None,
    before: dict[str, Any] | None = None,
) -> "tuple[Student, dict[str, Any]]":
    """A student ready to train, and what it inherited, as inheritance.json records it.

    With `inherit = "none"` or no teachers, every weight is random and depends on `seed` alone. A teacher that no student
    can inherit from is no error: both towers count as skipped, with its reason.

    Args:
        recipe: which student, and what it starts from.
        teachers: the recipe's; the first is inherited from where the recipe names no other. None = inherit from none.
        seed: of the weights that are not inherited.
        calibrate: gives pairs of the run's data, for strategies that score on them and to measure a start; called when needed.
        before: what a run that goes on recorded of its start; its plan is used again.
    """
    from students.student import build_student

    student = build_student(student_spec(recipe), seed)
    if recipe.inherit == NONE or (teachers is None and recipe.inherit_from is None):
        return student, {"strategy": NONE, "towers": [], "skipped": {}}
    check_strategy(recipe.inherit)
    try:
        origin, weights = source_of_weights(recipe, teachers)
    except UsageError as reason:
        if recipe.inherit == COPY:
            raise
        return student, {"strategy": recipe.inherit, "towers": [], "skipped": dict.fromkeys(TOWERS, str(reason))}
    if recipe.inherit == COPY:
        return student, start_from(student, weights, COPY)
    with _on_fastest(origin) if calibrate is not None else contextlib.nullcontext():
        return student, start_student(student, recipe, weights, calibrate, before)


def source_of_weights(recipe: StudentRecipe, teachers: TeacherSet | None) -> "tuple[Teacher, ClipWeights]":
    """What a student starts from, by its recipe: the teacher and its weights. Raises UsageError where none can be taken."""
    check_strategy(recipe.inherit)
    origin = _origin(recipe, teachers)
    return origin, origin.inheritable()


def start_student(
    student: "Student",
    recipe: StudentRecipe,
    weights: "ClipWeights",
    calibrate: "Callable[[Student], Calibration | None] | None" = None,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Give a student what it inherits from these weights; the arguments and the record are those of `new_student`."""
    from students.inherit.plan import plan_of

    pairs = cache(partial(calibrate, student)) if calibrate is not None else None
    before = before if before and before.get("plan") else {}
    known = plan_of(before["plan"]) if before else None
    if known is not None and (known.source_sha256, before["strategy"]) != (weights.sha256, recipe.inherit):
        known, before = None, {}
    took = start_from(student, weights, recipe.inherit, Terms(recipe.inherit_across, recipe.repair, pairs), known)
    return {**took, **{key: before[key] for key in ("step0",) if key in before}}


@contextlib.contextmanager
def _on_fastest(origin: "Teacher") -> Iterator[None]:
    """The source of weights on a GPU where there is one, while a start is scored and measured; then back."""
    import torch

    if torch.cuda.is_available():
        origin.to("cuda")
    try:
        yield
    finally:
        origin.to("cpu")


def _origin(recipe: StudentRecipe, teachers: TeacherSet | None) -> "Teacher":
    if recipe.inherit_from is not None:
        return load_teacher(recipe.inherit_from)
    if teachers is not None and teachers.specs:
        return teachers.loaded[0]
    raise DistillError("There is nothing to inherit from: name a teacher, or say --set student.inherit=none.")

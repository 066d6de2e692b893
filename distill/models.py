"""Building what a recipe names: teachers (lazily, once), the student, and its inherited start."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError, UsageError
from distill.recipe import StudentRecipe
from students.spec import STUDENTS, StudentSpec
from teachers.captioner import CaptionSettings
from teachers.load import load_teacher, resolve_teacher
from teachers.load_captioner import load_captioner, resolve_captioner

if TYPE_CHECKING:
    from students.student import Student
    from teachers.captioner import Captioner
    from teachers.teacher import Teacher


COPY = "copy"  # student.inherit: every weight as it is, from a model of the same architecture (fine-tuning)


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
    """The architecture that a recipe names, with its overrides."""
    return STUDENTS.get(recipe.name).resized(
        image_size=recipe.image_size, context_length=recipe.context_length, text_layers=recipe.text_layers
    )


def check_strategy(name: str) -> None:
    """Raise UsageError unless `name` is an inheritance strategy, "copy" or "none"."""
    from students.inherit import STRATEGIES

    if name not in ("none", COPY):
        STRATEGIES.get(name)


def _copy_weights(student: "Student", origin: "Teacher") -> dict[str, Any]:
    """Every weight of `origin` into `student`. Raises UsageError when they are not the same architecture and vocabulary."""
    source = origin.inheritable()
    own = student.clip.state_dict()
    odd = sorted(own.keys() ^ source.state.keys())
    odd += [name for name in own if name in source.state and own[name].shape != source.state[name].shape]
    if odd or source.vocabulary != student.vocabulary:
        what = f"they differ in {odd[0]}" if odd else "their vocabularies differ"
        raise UsageError(
            f"student.inherit = 'copy' needs two models of the same architecture, but {source.name!r} is not a "
            f"{student.spec.name!r} ({what}). Choose the student of that name, or another strategy (distill list strategies)."
        )
    student.clip.load_state_dict(source.state)
    summary = {"strategy": "copy", "source": source.name, "source_sha256": source.sha256}
    return {**summary, "towers": ["visual", "text"], "skipped": {}}


def new_student(recipe: StudentRecipe, teachers: TeacherSet | None, seed: int) -> "tuple[Student, dict[str, Any]]":
    """A student ready to train, and what it inherited: {"strategy", "source", "towers": {...}, "skipped": {...}, "plan"}.

    With `inherit = "none"` or no teachers, every weight is random and depends on `seed` alone.
    """
    from students.inherit import apply_plan, make_plan
    from students.student import build_student

    student = build_student(student_spec(recipe), seed)
    if recipe.inherit == "none" or (teachers is None and recipe.inherit_from is None):
        return student, {"strategy": "none", "towers": [], "skipped": {}}
    check_strategy(recipe.inherit)
    if recipe.inherit_from is not None:
        origin = load_teacher(recipe.inherit_from)
    elif teachers is not None and teachers.specs:
        origin = teachers.loaded[0]
    else:
        raise DistillError("There is nothing to inherit from: name a teacher, or say --set student.inherit=none.")
    if recipe.inherit == COPY:
        return student, _copy_weights(student, origin)
    try:
        source = origin.inheritable()
    except UsageError as reason:
        return student, {
            "strategy": recipe.inherit,
            "towers": [],
            "skipped": {"visual": str(reason), "text": str(reason)},
        }
    plan = make_plan(source, student.spec.model_cfg, recipe.inherit, student.vocabulary)
    state = apply_plan(plan, source, student.spec.model_cfg)
    unexpected = student.clip.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise DistillError(
            f"Inheritance made tensors that the student lacks: {', '.join(unexpected[:3])}. Please report this."
        )
    summary = {"strategy": plan.strategy, "source": plan.source, "source_sha256": plan.source_sha256}
    return student, {**summary, "towers": list(plan.towers), "skipped": plan.skipped, "plan": plan.to_json()}

"""Lints before a training, and of any model by name: which model is meant, what it is run on, and what stops the work.

Left out: the rules (`export.towers.lints`).
"""

import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core.clip.folder import is_clip_folder
from distill.core.errors import DistillError, UsageError, nearest
from distill.models import student_spec
from distill.processes import this_place
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.exporting.any_model import model_name, run_of, take_in
from distill.stages.latency.phones import named_config
from students.spec import STUDENTS, StudentSpec

if TYPE_CHECKING:
    from export.target import Target
    from export.towers.image_model import ImageModel
    from export.towers.lints.lint import Finding
    from students.student import Student

PROBES = 8  # images and captions whose numbers are looked at
SHOWN = 3  # errors that a refusal tells in full


@dataclass(frozen=True)
class Linted:
    """What was found of a model.

    Attributes:
        findings: the errors first.
        mended: what the canonicaliser changed before rules looked.
        notes: what was not looked at, and why.
        rules: how many rules were run.
        targets: folders of exports that were asked for.
    """

    findings: "list[Finding]"
    mended: list[str]
    notes: list[str]
    rules: int
    targets: list[str]


def lint_model(model: str, recipe: Recipe, console: Console, *, probe: bool = True) -> Linted:
    """The findings of any model that `distill export` takes, or of an architecture by name.

    Args:
        model: a run, a folder, a registered student, "timm:...+text:...", a teacher's name, "open_clip:...".
        recipe: its export table says for which targets; its data is what trained weights are run on.
        probe: run trained weights, for the rules about numbers.

    Raises:
        UsageError: no such model or target. DistillError: a model that cannot be deployed at all.
    """
    from export.target import chosen_targets
    from export.towers.lints.lint import lint, mended, probed, rules_for, towers_of

    targets = chosen_targets(recipe.export.targets, recipe.export.precisions)
    with tempfile.TemporaryDirectory(prefix="distill-lint-") as scratch:
        net, trained, notes = _loaded(model_name(model), recipe, RunFolder(scratch))
        graphs = towers_of(net)
        if trained and probe:
            graphs = probed(graphs, *_samples(net, recipe, console))
            notes.append(
                f"Numbers were looked at on {PROBES} images and captions of {recipe.eval.data or recipe.data}."
            )
        elif not notes:
            notes.append("Its weights are random here: rules about numbers (ANE-FP16) wait for a trained model.")
        config = getattr(getattr(net, "spec", None), "model_cfg", {})
        return Linted(
            lint(graphs, targets, recipe.export, config), mended(net), notes,
            len({name for target in targets for name, _ in rules_for(target.name)}), [one.folder for one in targets],
        )  # fmt: skip


def _loaded(model: str, recipe: Recipe, scratch: RunFolder) -> "tuple[Student | ImageModel, bool, list[str]]":
    """The model, whether its weights are trained ones, and what must be said of that."""
    from export.towers.image_model import is_image_model, load_image_model
    from students.student import build_student, load_student

    path = Path(model)
    if (run := run_of(model)) is not None:
        path = run.student
    if is_image_model(path):
        return load_image_model(path), True, []
    if run is not None:
        return load_student(path), True, []
    if model in STUDENTS:
        plain = recipe.student.model_copy(update={"name": model})
        return build_student(student_spec(plain), recipe.seed), False, []
    try:
        take_in(model, scratch, overwrite=False)
    except UsageError:
        raise
    except DistillError as missing:
        config = None if is_clip_folder(path) else named_config(model)
        if config is None:
            raise
        note = (
            f"Its weights are not here, so that its architecture alone is looked at ({str(missing).partition('.')[0]})."
        )
        return build_student(StudentSpec(model, config), recipe.seed), False, [note]
    if is_image_model(scratch.student):
        return load_image_model(scratch.student), True, []
    return load_student(scratch.student), True, []


def _samples(net: "Student | ImageModel", recipe: Recipe, console: Console) -> Any:
    """Pixels, and tokens where there is a text tower, as torch tensors."""
    import torch

    from distill.stages.exporting.samples import parity_samples
    from distill.stages.exporting.stage import inputs_of

    few = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"limit": PROBES})})
    pixels, tokens = inputs_of(net, parity_samples(few, PROBES, console))
    return torch.from_numpy(pixels), None if tokens is None else torch.from_numpy(tokens)


def check_allowed(names: tuple[str, ...]) -> None:
    """Raise UsageError for a rule that there is none of, with the nearest."""
    from export.towers.lints.rule import RULES

    for name in names:
        if name not in RULES:
            raise UsageError(
                f"lint.allow names {name!r}, and there is no such rule. {nearest(name, RULES)} See distill list rules."
            )


def refuse_errors(recipe: Recipe, run: RunFolder) -> None:
    """Before a training: raise UsageError where its targets are known to refuse or to wreck the student.

    Nothing is done for a student that is trained already, without targets, or with lint.enabled = false; of several processes the
    first looks.
    """
    check_allowed(recipe.lint.allow)
    if this_place().rank or run.student.exists() or run.teacher.exists():
        return
    if left := errors_of(recipe):
        raise UsageError(_refusal(recipe.student.name, left))


def errors_of(recipe: Recipe) -> "list[Finding]":
    """What the recipe's targets are known to refuse of its student, without what lint.allow accepts; its weights do not matter.

    Raises UsageError for a student that cannot be deployed at all.
    """
    from export.target import chosen_targets

    targets = chosen_targets(recipe.export.targets, recipe.export.precisions)
    if not (recipe.lint.enabled and targets):
        return []
    try:
        errors = _errors(student_spec(recipe.student), tuple(targets), recipe)
    except UsageError:
        raise
    except DistillError as error:
        raise UsageError(
            f"{str(error).rstrip('.')}. To train it all the same: --set lint.enabled=false, or --set export.targets=[]."
        ) from error
    return [one for one in errors if one.rule not in recipe.lint.allow]


def _errors(spec: StudentSpec, targets: "tuple[Target, ...]", recipe: Recipe) -> "list[Finding]":
    key = json.dumps([spec.model_cfg, spec.vocabulary, spec.tokenizer, spec.name], sort_keys=True, default=str)
    chips = recipe.export.chips.model_dump_json()
    return _cached(key, tuple(one.folder for one in targets), chips, _Unhashed((spec, targets, recipe)))


class _Unhashed(tuple[Any, ...]):
    """What a cached function is given beside its key."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return True


@functools.lru_cache(maxsize=64)
def _cached(key: str, folders: tuple[str, ...], chips: str, given: _Unhashed) -> "list[Finding]":
    from export.towers.lints.lint import lint, towers_of
    from students.student import build_student

    spec, targets, recipe = given
    found = lint(towers_of(build_student(spec, 0)), targets, recipe.export, spec.model_cfg)
    return [one for one in found if one.severity == "E"]


def _refusal(student: str, errors: "list[Finding]") -> str:
    told = [f"{one.rule} ({', '.join(one.targets)}): {one.sentence()}. Mend: {one.mend}." for one in errors[:SHOWN]]
    more = f" {len(errors) - SHOWN} more: distill lint {student}." if len(errors) > SHOWN else ""
    names = json.dumps(sorted({one.rule for one in errors}))
    return (
        f"{student} should not be trained for its export targets. {' '.join(told)}{more} Choose another student or other targets "
        f"(--target), or go on all the same: --set 'lint.allow={names}'"
    )

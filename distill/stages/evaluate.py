"""Judging the models of a run: what they are, on which data, and their figures in out/eval/."""

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.models import TeacherSet
from distill.processes import stage_device, this_place
from distill.recipe import Recipe
from distill.rehearsal import MARK, small_task
from distill.run_folder import RunFolder
from distill.stages.label import column_names, open_data
from distill.stages.reinforce import is_reinforced
from reinforced_data.read_as import left_out
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE

if TYPE_CHECKING:
    from distill.evaluation.evalset import Embedder, EvalSet
    from reinforced_data.source import ColumnNames, Source


FEW = 100  # images; below that a student can only be tried out


def open_evalset(recipe: Recipe) -> "EvalSet":
    """The evaluation data of a recipe: eval.data, or the eval split of the training data."""
    from distill.evaluation.evalset import load_evalset

    sources = {role: source for role, _, source in open_evaluation(recipe)}
    data = load_evalset(sources["evaluation"], sources.get("zero-shot"))
    return replace(data, task=small_task(data.task)) if recipe.rehearse else data


def open_evaluation(recipe: Recipe) -> "list[tuple[str, str, Source]]":
    """(role, place, source) of what models are judged on: "evaluation", and "zero-shot" where it is a place of its own.

    A part is held out only of the place that is trained on; of any other all is used, or the part eval.split.
    """
    from reinforced_data.source import NAMED, open_source

    place, limit = eval_location(recipe), recipe.eval.limit
    part = f"{NAMED}{recipe.eval.split}" if recipe.eval.split else "given"
    own = not recipe.eval.split and _trained_on(recipe, place)
    columns = evaluation_columns(recipe)
    found = [("evaluation", place, open_source(place, "eval" if own else part, limit, columns=columns))]
    if recipe.eval.zero_shot:
        other = replace(columns, lenient=True)
        found.append(
            ("zero-shot", recipe.eval.zero_shot, open_source(recipe.eval.zero_shot, "given", limit, columns=other))
        )
    return found


def evaluation_columns(recipe: Recipe) -> "ColumnNames":
    """Which columns of the evaluation's data hold what: as eval says; else as of the training data, where they are there."""
    from reinforced_data.source import ColumnNames

    if recipe.eval.image_column or recipe.eval.caption_column:
        return ColumnNames(recipe.eval.image_column, recipe.eval.caption_column)
    if is_reinforced(Path(recipe.data)) and (Path(recipe.data) / PLAN_FILE).is_file():
        said = ColumnNames.of(atomic.read_json(Path(recipe.data) / PLAN_FILE)["source"].get("columns", {}))
    else:
        said = column_names(recipe).real()
    return said if _trained_on(recipe, eval_location(recipe)) else replace(said, lenient=True)


def _trained_on(recipe: Recipe, place: str) -> bool:
    """Whether `place` is the one that is trained on: a part of it was then held out, and that alone may judge."""
    trained = source_of(recipe.data)
    return place == trained or (Path(place).exists() and Path(trained).exists() and Path(place).samefile(trained))


def eval_location(recipe: Recipe) -> str:
    """Where the evaluation's samples lie: eval.data, or the training data's own source."""
    return source_of(recipe.eval.data or recipe.data)


def source_of(location: str) -> str:
    """A place of data itself, or the place that a reinforced set was made of."""
    if is_reinforced(Path(location)):
        return str(atomic.read_json(Path(location) / PLAN_FILE)["source"]["location"])
    return location


def check_data(recipe: Recipe) -> None:
    """Open both splits before any work, so that a wrong path or an empty set fails at once."""
    if not is_reinforced(Path(recipe.data)):
        source = open_data(recipe)
        if len(source) < recipe.train.batch_size:
            raise UsageError(
                f"The data {recipe.data!r} has {len(source)} training images, fewer than one batch of "
                f"{recipe.train.batch_size}. {smaller_batch(len(source))}"
            )
    _check_eval(recipe)


def smaller_batch(images: int) -> str:
    """What to do about fewer images than a batch takes."""
    if images < 2:
        return "Give more images."
    size = 1 << (images.bit_length() - 1)  # the largest power of two that they fill
    warned = (
        "" if images >= FEW else f" A student learns nothing of use from fewer than {FEW} images: better give more."
    )
    return f"Lower it with --set train.batch_size={size}, or give more images.{warned}"


def _check_eval(recipe: Recipe) -> None:
    """Raise UsageError when there is plainly nothing to judge models on: no two samples with captions, no classes."""
    from reinforced_data.pixels.decode import BadImageError

    captioned = 0
    try:
        _, _, source = open_evaluation(recipe)[0]
    except UsageError as error:
        if recipe.eval.data or not is_reinforced(Path(recipe.data)):
            raise
        raise UsageError(
            f"The student is judged on the source of {recipe.data!r}, which does not serve: {error} Or name other data: "
            "--set eval.data=PLACE."
        ) from None
    for index in range(len(source)):
        with contextlib.suppress(BadImageError):
            captioned += bool(source[index].captions)
        if captioned == 2:
            return
    if not recipe.eval.zero_shot and source.zero_shot() is None:
        if captioned:
            raise UsageError(
                f"There is too little to judge the student on: {source.name!r} has 1 evaluation image with captions, and telling "
                f"images apart takes two; {source.read_as.line()}. Give more images, or name other data: --set eval.data=PLACE."
            )
        raise UsageError(
            f"There is nothing to judge the student on: {source.name!r} has no evaluation images with captions and "
            f"no class labels (captioners write for the training images alone); {source.read_as.line()}. Say what has captions "
            "(--caption-column NAME), or name other data: --set eval.data=PLACE."
        )


@dataclass(frozen=True)
class Judged:
    """A model of the run.

    Attributes:
        role: in the table: "teacher", "student", "averaged", "start", "plain", "random-start" or "no-teacher"; "stage-N" of a
            progressive stage.
        name: of the model.
        embedder: gives an `Embedder` on a torch device when one is needed.
        rest: lets go of the device afterwards.
    """

    role: str
    name: str
    embedder: "Callable[[str], Embedder]"
    rest: Callable[[], None] = lambda: None


def judged_models(recipe: Recipe, teachers: TeacherSet, run: RunFolder) -> list[Judged]:
    """Teachers, student, plain student, and those between the two where they were trained."""
    from distill.evaluation.evalset import student_embedder, teacher_embedder
    from students.student import load_student

    def teacher(index: int) -> "Callable[[str], Embedder]":
        return lambda device: teacher_embedder(teachers.loaded[index].to(device))

    def student(folder: Path, name: str) -> "Callable[[str], Embedder]":
        return lambda device: student_embedder(load_student(folder).to(device), name)

    models = [Judged("teacher", spec.name, teacher(i), teachers.rest) for i, spec in enumerate(teachers.specs)]
    models.append(Judged("student", recipe.student.name, student(run.student, recipe.student.name)))
    if run.averaged.exists():
        name = f"{recipe.student.name} (average)"
        models.append(Judged("averaged", name, student(run.averaged, name)))
    if run.start.exists():
        name = f"{recipe.student.name} (start)"
        models.append(Judged("start", name, student(run.start, name)))
    for number, stage in enumerate(recipe.student.stages, start=1):
        if (folder := run.stage(number).student).exists():
            name = f"{recipe.student.name} (stage {number}, keep {stage.keep:g})"
            models.append(Judged(f"stage-{number}", name, student(folder, name)))
    if recipe.baseline.enabled:
        name = f"{recipe.student.name} (plain)"
        models.append(Judged("plain", name, student(run.plain.student, name)))
    for role, arm in (("random-start", run.random_start), ("no-teacher", run.no_teacher)):
        if recipe.baseline.enabled and recipe.baseline.four_arms and arm.student.exists():
            name = f"{recipe.student.name} ({role.replace('-', ' ')})"
            models.append(Judged(role, name, student(arm.student, name)))
    return models


def eval_stage(recipe: Recipe, models: list[Judged], run: RunFolder, console: Console) -> None:
    """Write eval/<role or teacher name>.json for every model that has none."""
    from distill.evaluation.evalset import evaluate_model
    from reinforced_data.store.manifest import most_first

    missing = [model for model in models if not eval_file(run, model).exists()]
    if not missing:
        return
    device = stage_device(recipe.eval.device, this_place())
    console.say(f"Models are judged on {device}.")
    with console.stage("evaluate") as advance:
        data = open_evalset(recipe)
        if data.rejected:
            reasons = most_first(Counter(data.rejected.values()))
            console.say(f"Left out of the evaluation: {left_out(reasons)}; {len(data.samples)} images are judged by.")
        seen = tell_seen(run, data, console)
        for done, model in enumerate(missing):
            advance(done, len(missing), model.name)
            embedder = model.embedder(device)
            result = {"role": model.role, **evaluate_model(embedder, data, recipe.eval.batch_size)}
            result["parameters"] = embedder.parameters
            result["data"] = {"name": data.name, "fingerprint": data.fingerprint}
            if model.role != "teacher":
                result["seen_in_training"] = seen
            if data.rejected:
                result["rejected"] = data.rejected
            if recipe.rehearse:
                result["rehearsal"] = MARK
            _keep_pictures(result["examples"], data, run)
            atomic.write_json(eval_file(run, model), result)
            model.rest()


def tell_seen(run: RunFolder, data: "EvalSet", console: Console) -> int | None:
    """`seen_in_training`, which is said where there are any."""
    seen = seen_in_training(run, data)
    if seen:
        console.say(f"{seen} of the evaluation's images were trained on too (the same bytes), which flatters students.")
    return seen


def seen_in_training(run: RunFolder, data: "EvalSet") -> int | None:
    """How many images of the evaluation, by content, the run's student was trained on; None where its set is not there.

    The evaluation's hashes are held, and those that the set stores pass by them, so that sets of any size can be asked.
    """
    from reinforced_data.curation.selection import Selection
    from reinforced_data.store.reader import ReinforcedData

    record = atomic.read_json(run.trained_on) if run.trained_on.exists() else {}
    if "set" not in record or not (Path(record["set"]) / MANIFEST_FILE).exists():
        return None
    trained = ReinforcedData(record["set"])
    found = list(trained.with_images(data.image_hashes()))
    if found and (chosen := record["selection"]) is not None:
        repeats = Selection.load(Path(chosen["folder"]), trained).repeats
        found = [(index, image) for index, image in found if repeats[index] > 0]
    return len({image for _, image in found})


def _keep_pictures(examples: list[dict[str, Any]], data: "EvalSet", run: RunFolder) -> None:
    """Small pictures of what the examples name: the report shows them when the data is no longer there."""
    from distill.evaluation.examples import thumbnail

    photos = {sample.key: sample.image for sample in data.samples}
    for key in {key for example in examples for key in (example["own"], *example["hits"])}:
        if not run.picture(key).exists():
            run.picture(key).parent.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(run.picture(key), thumbnail(photos[key], key))


def eval_file(run: RunFolder, model: Judged) -> Path:
    """Where a model's figures lie."""
    return run.eval_of(model.name if model.role == "teacher" else model.role)

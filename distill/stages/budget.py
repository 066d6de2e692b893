"""By which settings a student trains, and for how long: what its authors published, where the user said nothing.

Nothing here changes a setting that a recipe, a flag or --set names, and a student without a published recipe (the
embedded default's among them) is left alone. What is filled in is said with its reason, and stands in resolved.json.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core import atomic
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.core.machine import memory_bytes
from distill.models import student_spec
from distill.processes import Place, processes_here
from distill.recipe import Recipe
from distill.recipe.kept import BEFORE_THE_CHOICE
from distill.recipe.said import Filled, is_set, kept_values, put, said_lengths
from distill.run_folder import RunFolder
from distill.stages.evaluate import FEW
from distill.stages.label import is_published, open_data
from distill.stages.reinforce import is_reinforced
from distill.stages.training.length import (
    LEAST_SAMPLES,
    MOST_EPOCHS,
    TOWERS_BATCH,
    epochs_that_fit,
    warmup_steps,
    with_steps,
)
from distill.stages.training.memory import pairs_that_fit
from distill.stages.training_data import known_selection
from reinforced_data.store.manifest import read_manifest
from reinforced_data.store.names import SELECTION_FILE
from students.spec import STUDENTS, PublishedTraining, StudentSpec

if TYPE_CHECKING:
    from distill.console import Console

TOO_FEW = 1000  # a run that sees a thousandth of the published samples is said to be short
LEAST_BATCHES = 4  # a batch is halved until the images make so many


def settle(
    recipe: Recipe, run: RunFolder, existing: Existing, place: Place, console: "Console"
) -> tuple[Recipe, Filled]:
    """The recipe with nothing left open: published settings filled in, samples or epochs turned into steps.

    A run that is resumed keeps what was filled in when it began, whatever machine or data it finds now. What was filled
    in is said, and so is a budget that is absurd for the student, before anything is spent.

    Returns:
        The recipe, and the reason of each value that this function chose.

    Raises UsageError when the training's length is said twice, and what opening the data raises.
    """
    said = said_lengths(recipe)
    if len(said) > 1:
        raise UsageError(f"Say the length of training once: {' or '.join(f'train.{name}' for name in said)}.")
    published = None if recipe.towers else STUDENTS.get(recipe.student.name).training
    kept = _kept(run) if existing is Existing.RESUME else None
    if kept is not None:
        recipe, filled = kept_values(recipe, kept)
        if recipe.train.compile == "auto":  # whose runs before this choice said that it is off
            before = kept["recipe"]["train"].get("compile", BEFORE_THE_CHOICE["train.compile"])
            recipe = put(recipe, {"train.compile": before})
        if recipe.train.samples or recipe.train.epochs:
            recipe, length = with_steps(recipe, training_images(recipe))
            filled |= length
    elif published is None and is_set(recipe, "train.steps") and is_set(recipe, "train.batch_size"):
        recipe, filled = _for_device(recipe)
    else:
        images = training_images(recipe)
        if published is not None:
            recipe, filled = fill(recipe, published, images, place, memory_gb(recipe))
        else:
            recipe, filled = fitted(recipe, images, place.world, memory_gb(recipe))
        recipe, length = with_steps(recipe, images)
        epochs_note = filled.pop("train.epochs", None)
        filled |= {key: f"{reason}; {epochs_note}" if epochs_note else reason for key, reason in length.items()}
        warmup, reason = warmup_steps(recipe, published)
        if (published is not None or length) and not is_set(recipe, "train.warmup_steps"):
            recipe, filled = put(recipe, {"train.warmup_steps": warmup}), {**filled, "train.warmup_steps": reason}
        recipe, more = _for_device(recipe)
        filled |= more
    if place.rank == 0:
        for line in lines(recipe, filled, published):
            console.say(line)
    return recipe, filled


def fitted(recipe: Recipe, images: int, world: int = 1, memory: float = math.inf) -> tuple[Recipe, Filled]:
    """The recipe with a batch and a number of epochs that fit data and device, for a student without a published training.

    The embedded default's own numbers are the measure: 5 epochs of 2,048 images in batches of 256 for a student that
    inherits. Fewer images are seen more often, so that as many samples are seen, up to 40 times; of more images each is seen
    at least one and a half times. A student that starts at random gets four times as much of all three; heads over frozen
    towers, whose steps cost little, see 140,800 samples in batches of 512 or of what the images fill.

    Args:
        images: in the training data. world: processes that train. memory: GB of the device of each.
    """
    values: dict[str, Any] = {}
    reasons: Filled = {}
    usual, batches = (TOWERS_BATCH, 1) if recipe.towers else (recipe.train.batch_size, LEAST_BATCHES)
    batch = recipe.train.batch_size
    if not is_set(recipe, "train.batch_size"):
        batch = usual
        while images >= FEW and batch * batches > images:  # fewer are refused, with the reason
            batch //= 2
        why = []
        if batch != recipe.train.batch_size:
            why.append(
                "usual for heads" if batch == usual else f"of {images:,} images {batches} x {2 * batch} cannot be made"
            )
        share, reason = pairs_that_fit(recipe, batch // world, memory, bf16=_in_bf16(recipe))
        if reason:
            batch = share * world
            why.append(reason)
        values["train.batch_size"], reasons["train.batch_size"] = (
            batch,
            "; ".join(why)
            or ("the usual one, of which the images make enough" if batch <= images else "the usual one"),
        )
    if not said_lengths(recipe):
        values["train.epochs"], reasons["train.epochs"] = epochs_that_fit(recipe, images)
    return put(recipe, values), reasons


def _for_device(recipe: Recipe) -> tuple[Recipe, Filled]:
    """The recipe with the precision that the device is good at, where it says none."""
    if is_set(recipe, "train.precision"):
        return recipe, {}
    precision, lacking = _precision(recipe)
    reason = lacking or "the GPU has it; the losses stay in float32"
    return put(recipe, {"train.precision": precision}), {"train.precision": reason}


def fill(
    recipe: Recipe, published: PublishedTraining, images: int, place: Place, memory: float
) -> tuple[Recipe, Filled]:
    """The recipe with the published values of the keys that it does not set.

    Args:
        images: in the training data.
        memory: GB of the device that trains.
    """
    values, reasons = {}, {}
    for key, value, reason in _choices(recipe, published, images, place, memory):
        if not is_set(recipe, key):
            values[key], reasons[key] = value, reason
    return put(recipe, values), reasons


def _choices(
    recipe: Recipe, published: PublishedTraining, images: int, place: Place, memory: float
) -> Iterator[tuple[str, Any, str]]:
    as_published = "as published"
    for name in ("lr", "lr_floor", "weight_decay", "beta1", "beta2", "clip_norm"):
        yield f"train.{name}", getattr(published, name), as_published
    precision, lacking = _precision(recipe)
    yield "train.precision", precision, f"fp32: bf16 was published, and {lacking}" if lacking else as_published
    batch, why = _batch(recipe, published, images, place, memory)
    yield "train.batch_size", batch, why
    if not said_lengths(recipe):
        few = min(MOST_EPOCHS, LEAST_SAMPLES / max(1, images))
        note = published.epochs_note
        if few > published.epochs:
            note = f"{LEAST_SAMPLES:,} samples at least; {published.epochs:g} epochs were published for far more images"
        yield "train.epochs", max(few, published.epochs), note
    if is_set(recipe, "train.batch_size"):
        batch = recipe.train.batch_size
    if batch >= published.objective_batch:
        yield "objective", published.objective, f"as published, and the batch is at least {published.objective_batch:,}"
    if not is_reinforced(Path(recipe.data)) and not is_published(recipe.data):
        if published.view_preset:
            yield "reinforce.view_preset", published.view_preset, as_published
        if published.views:
            yield "reinforce.views_per_image", published.views, published.views_note
    if not is_set(recipe, "train.checkpoint_every"):
        yield "train.checkpoint_minutes", 15.0, "a checkpoint is several times the student; so a kill costs 15 minutes"


def _precision(recipe: Recipe) -> tuple[str, str]:
    """(bf16 or no, why it is not bf16)."""
    import torch

    if recipe.train.device == "cpu":
        return "no", "training runs on the CPU, as train.device says"
    if not torch.cuda.is_available():
        return "no", "there is no GPU here"
    return ("bf16", "") if torch.cuda.is_bf16_supported() else ("no", "the GPU here has no bf16")


def _in_bf16(recipe: Recipe) -> bool:
    return (recipe.train.precision if is_set(recipe, "train.precision") else _precision(recipe)[0]) == "bf16"


def _batch(recipe: Recipe, published: PublishedTraining, images: int, place: Place, memory: float) -> tuple[int, str]:
    """A global batch: the published share of one process, halved until it fits the device and the data hold two."""
    share, reason = pairs_that_fit(recipe, published.batch_per_process, memory, bf16=_in_bf16(recipe))
    reasons = [f"{published.batch_per_process} a process, as published (of {published.batch_size:,} in all)"]
    reasons += [reason] if reason else []
    before = share
    while share > 2 and 2 * share * place.world > images:
        share //= 2
    if share < before:
        reasons.append(f"halved to {share}: there are {images:,} images")
    return share * place.world, "; ".join(reasons)


def memory_gb(recipe: Recipe) -> float:
    """Memory of the device that each process trains on, in GB: its GPU's, else its share of what this machine (or the container)
    has; infinite where it cannot be asked for."""
    import torch

    if recipe.train.device != "cpu" and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory) / 1e9
    return memory_bytes() / processes_here() / 1e9


def training_images(recipe: Recipe) -> int:
    """How many images an epoch of the recipe's data has: those of a selection that is there, else all.

    What filters will leave of a set is known only when they have run; until then all count.
    """
    if is_reinforced(Path(recipe.data)):
        chosen = known_selection(recipe)
        if chosen is not None:
            return int(atomic.read_json(chosen / SELECTION_FILE)["draws"])
        return read_manifest(Path(recipe.data)).samples
    return len(open_data(recipe))


def _kept(run: RunFolder) -> dict[str, Any] | None:
    return atomic.read_json(run.resolved) if run.resolved.exists() else None


def lines(recipe: Recipe, filled: Filled, published: PublishedTraining | None) -> list[str]:
    """What a person reads of all this: a line per value that was filled in, and one when the budget is absurd."""
    said = []
    if filled:
        source = f" by what its authors published ({published.source})" if published else ""
        said.append(f"settings that you did not make, for {recipe.student.name}{source}:")
        for key, reason in filled.items():
            section, _, name = key.rpartition(".")
            value = getattr(getattr(recipe, section) if section else recipe, name)
            if value is not None:
                said.append(f"  {key} = {value}: {reason}")
    if published and not recipe.rehearse and recipe.student.inherit != "copy":
        said += short_budget(recipe, published, student_spec(recipe.student))
    return said


def short_budget(recipe: Recipe, published: PublishedTraining, spec: StudentSpec) -> list[str]:
    """One line when the run sees less than a thousandth of the published samples, else none."""
    seen = recipe.train.steps * recipe.train.batch_size
    if seen * TOO_FEW > published.samples:
        return []
    size = f" for {sum(spec.published_params):.0f} M parameters" if spec.published_params else ""
    return [
        f"A short budget: this run sees {seen:,} samples{size}; {published.samples:,} were published ({published.steps:,} "
        f"steps of {published.batch_size:,}, {published.source}), {published.samples // seen:,} times as many. Expect a weak "
        "student: give more images, or train longer (train.epochs, train.samples)."
    ]

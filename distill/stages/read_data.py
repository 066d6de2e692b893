"""Telling how the data of a job is read: a line per place on the terminal, and read-as.json for the report."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.models import student_spec
from distill.processes import this_place
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evaluation
from distill.stages.label import is_published, open_data
from distill.stages.reinforce import is_reinforced
from reinforced_data.captions_look import LOOKED_AT, remarks
from reinforced_data.read_as import left_out
from reinforced_data.store.names import MANIFEST_FILE

if TYPE_CHECKING:
    from reinforced_data.source import Source


def tell_how_read(recipe: Recipe, run: RunFolder, console: Console, *, evaluation: bool = True) -> None:
    """The first process says, a line each, how training and evaluation data are read, and keeps it in read-as.json.

    Args:
        evaluation: whether models will be judged.

    Raises what `open_source` raises.
    """
    if this_place().rank:
        return
    found: dict[str, Any] = {}
    if not (is_published(recipe.data) or is_reinforced(Path(recipe.data))):
        source = open_data(recipe)
        found["training"] = told_how_read("training data", recipe.data, source, console)
        found["training"]["captions_look"] = _look_at_captions(recipe, source, console)
    if evaluation:
        for role, place, source in open_evaluation(recipe):
            found[role] = told_how_read(f"{role} data", place, source, console)
    atomic.write_json(run.read_as, found, shared=True)


def told_how_read(role: str, place: str, source: "Source", console: Console) -> dict[str, Any]:
    """Say in one line how `source` was read; returns the same as an object."""
    console.say(f"{role} {place}: {len(source)} samples, {source.read_as.line()}")
    return {"place": place, "samples": len(source), **source.read_as.to_json()}


def _look_at_captions(recipe: Recipe, source: "Source", console: Console) -> list[str]:
    """Say what some of the captions show; those made from class names show nothing."""
    from reinforced_data.pixels.decode import BadImageError
    from reinforced_data.sources.parts.listing import LABEL_CAPTION_SOURCE

    captions: list[str] = []
    for place in range(min(LOOKED_AT, len(source))):
        with contextlib.suppress(BadImageError):
            sample = source[place * len(source) // min(LOOKED_AT, len(source))]
            captions += [caption.text for caption in sample.captions if caption.source != LABEL_CAPTION_SOURCE]
    said = remarks(captions, 77 if recipe.towers else student_spec(recipe.student).context_length)
    for remark in said:
        console.say(f"training data: {remark}.")
    return said


def tell_left_out(set_folder: Path, console: Console) -> None:
    """The first process says how many samples a set leaves out, and why; nothing where it has all of them."""
    from reinforced_data.store.manifest import by_example

    if this_place().rank:
        return
    manifest = atomic.read_json(set_folder / MANIFEST_FILE)
    reasons = by_example(manifest["rejected_reasons"], manifest.get("rejected", ()))
    if count := sum(reasons.values()):
        console.say(
            f"{manifest['samples']} samples are labelled and {count} left out: {left_out(reasons)}. Which they are is in "
            f"{set_folder / MANIFEST_FILE}."
        )


def look_first(recipe: Recipe) -> None:
    """Look at the data that teachers are to label, before any of them is loaded or downloaded; a finished set is left alone.

    Raises what `open_source` raises, and UsageError where nothing in it can be used.
    """
    from reinforced_data.labelling.calibrate import LEAST_PAIRS
    from reinforced_data.labelling.cluster.executors import require_packages
    from reinforced_data.labelling.preparation.prepare import refuse_useless

    if is_published(recipe.data) or is_reinforced(Path(recipe.data)):
        return
    require_packages(recipe.cluster)
    source = open_data(recipe)
    refuse_useless(source, captioned=bool(recipe.captioners))
    if recipe.reinforce.calibrate:
        refuse_useless(open_data(recipe, "eval"), least=LEAST_PAIRS)

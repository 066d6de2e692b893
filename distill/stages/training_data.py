"""What a student is trained on: the reinforced set or a selection of it, its captions measured, pairs drawn from it.

Making the set is the business of `stages.reinforce`, drawing from it that of `reinforced_data`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from distill.console import Console
from distill.core import atomic
from distill.core.errors import OutputExistsError, UsageError
from distill.core.existing import Existing
from distill.models import student_spec
from distill.processes import WEEK_S, this_place, wait_until
from distill.recipe import CaptionsRecipe, Recipe
from distill.run_folder import RunFolder
from reinforced_data.store.names import SELECTION_FILE

if TYPE_CHECKING:
    from reinforced_data.curation.selection import SelectedPairs
    from reinforced_data.training.caption_policy import CaptionPolicy
    from reinforced_data.training.pairs import StoredPairs


def caption_policy(captions: CaptionsRecipe) -> "CaptionPolicy":
    """The policy that a recipe's captions table describes. Raises UsageError when its weights make no sense."""
    from reinforced_data.training.caption_policy import CaptionPolicy

    return CaptionPolicy(captions.policy, captions.weights, captions.sub_sentences)


def check_curation(recipe: Recipe) -> None:
    """Raise UsageError when a filter, one of its settings or the selection is wrong, before anything is spent."""
    from reinforced_data.curation.filter import parse_filter

    for text in recipe.filters:
        parse_filter(text)
    if recipe.selection not in (None, "none") and not (Path(str(recipe.selection)) / SELECTION_FILE).is_file():
        raise UsageError(f"There is no selection in {recipe.selection!r}. Make one (distill curate), or say none.")


def known_selection(recipe: Recipe) -> Path | None:
    """The selection of the reinforced set recipe.data that is there before filters run, and that will be trained on."""
    if recipe.selection is not None:
        folder = Path(recipe.selection) if recipe.selection != "none" else None
    else:
        folder = None if recipe.filters else RunFolder(Path(recipe.data).parent).selection
    return folder if folder is not None and (folder / SELECTION_FILE).is_file() else None


def selection_stage(
    recipe: Recipe, set_folder: Path, run: RunFolder, console: Console, *, wait: bool = False
) -> Path | None:
    """The folder of the selection to train on, or None for all samples of the set.

    recipe.selection when given ("none" = all); else, with recipe.filters, the run's own, made when it is not there; else
    the one beside the set, which `distill reinforce --filter` left there. `wait`: the first of several processes makes it.

    Raises what `curate` and `Selection.load` raise.
    """
    from reinforced_data.curation.selection import Selection
    from reinforced_data.store.reader import ReinforcedData

    beside = RunFolder(set_folder.parent).selection
    if recipe.selection is not None:
        folder = None if recipe.selection == "none" else Path(recipe.selection)
    elif recipe.filters:
        folder = run.selection
        _make_selection(recipe, set_folder, folder, console, wait)
    else:
        folder = beside if beside.is_dir() else None
    if folder is not None:
        chosen = Selection.load(folder, ReinforcedData(set_folder))
        console.say(f"selection {folder}: {chosen.kept} of {len(chosen.keys)} samples, {chosen.draws} draws an epoch")
    return folder


def keep_trained_on(run: RunFolder, set_folder: Path, selection: Path | None) -> None:
    """Write trained-on.json: the set and the selection that the student learns from, which the report reads."""
    from reinforced_data.curation.selection import Selection
    from reinforced_data.store.reader import ReinforcedData

    record = None
    if selection is not None:
        chosen = Selection.load(selection, ReinforcedData(set_folder))
        filters = [f"{step['filter']} kept {step['kept']} of {step['came']}" for step in chosen.steps]
        counts = {"kept": chosen.kept, "samples": len(chosen.keys), "draws": chosen.draws}
        record = {"folder": str(selection), "filters": filters, **counts}
    atomic.write_json(run.trained_on, {"set": str(set_folder), "selection": record})


def _make_selection(recipe: Recipe, set_folder: Path, folder: Path, console: Console, wait: bool) -> None:
    """The selection of recipe.filters in `folder`, unless it is there; one of the set before it grew is made anew."""
    from reinforced_data.curation.curate import curate, is_made
    from reinforced_data.store.reader import ReinforcedData

    data = ReinforcedData(set_folder)

    def made() -> bool:
        return is_made(folder, data, recipe.filters, recipe.seed)

    if wait and this_place().rank:
        wait_until(made, f"the first process to make the selection {str(folder)!r}", WEEK_S)
    if made():
        return
    if folder.exists():
        console.say(
            f"The selection {folder} is of other filters, or of the set before it was extended; it is made anew."
        )
    with console.stage("curate") as advance:
        chosen = curate(data, recipe.filters, recipe.seed, advance)
        try:
            chosen.save(folder, Existing.OVERWRITE if folder.exists() else Existing.REFUSE)
        except OutputExistsError:  # another process finished the set at the same moment, and was faster
            if not made():
                raise


def stored_pairs(recipe: Recipe, set_folder: Path, selection: Path | None) -> "StoredPairs | SelectedPairs":
    """Pairs of a reinforced set for the recipe's student: those of a selection, or all."""
    from reinforced_data.curation.selection import SelectedPairs, Selection
    from reinforced_data.training.pairs import StoredPairs

    size = student_spec(recipe.student).image_size
    pairs = StoredPairs(set_folder, size, caption_policy(recipe.captions), recipe.train.replay)
    return pairs if selection is None else SelectedPairs(pairs, Selection.load(selection, pairs.data))


def caption_stage(recipe: Recipe, set_folder: Path, run: RunFolder, console: Console) -> None:
    """Write captions.json: the captions of the set, measured per source; nothing when no captioner wrote any.

    It is made anew when the set was extended since.
    """
    from reinforced_data.store.caption_report import caption_report, has_captioner
    from reinforced_data.store.identity import SET_KEY, fresh, set_identity
    from reinforced_data.store.reader import ReinforcedData

    data = ReinforcedData(set_folder)
    identity = set_identity(data.manifest)
    if run.captions.exists() and fresh(atomic.read_json(run.captions), identity):
        return
    if has_captioner(data):
        with console.stage("measure captions"):
            report = {SET_KEY: identity, **caption_report(data, seed=recipe.seed)}
            atomic.write_json(run.captions, report, shared=True)

"""What a student is trained on: the reinforced set or a selection of it, its captions measured, pairs drawn from it.

Making the set is the business of `stages.reinforce`, drawing from it that of `reinforced_data`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from distill.console import Console
from distill.core import atomic
from distill.core.errors import OutputExistsError, UsageError
from distill.core.existing import Existing
from distill.models import TeacherSet, student_spec
from distill.processes import WEEK_S, stage_device, this_place, wait_until
from distill.recipe import CaptionsRecipe, Recipe
from distill.run_folder import RunFolder
from reinforced_data.store.names import SELECTION_FILE
from reinforced_data.store.unpaired import UnpairedTexts

if TYPE_CHECKING:
    from reinforced_data.curation.selection import SelectedPairs
    from reinforced_data.store.reader import ReinforcedData
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


def stored_pairs(
    recipe: Recipe, set_folder: Path, selection: Path | None, run: RunFolder | None = None
) -> "StoredPairs | SelectedPairs":
    """Pairs of a reinforced set for the recipe's student, of a selection or all, and the texts that were read beside them.

    Args:
        run: whose texts they are where the recipe names some; None = the run that the set lies in.
    """
    from reinforced_data.curation.selection import SelectedPairs, Selection
    from reinforced_data.training.pairs import StoredPairs

    size = student_spec(recipe.student).image_size
    pairs = StoredPairs(set_folder, size, caption_policy(recipe.captions), recipe.train.replay)
    pairs.unpaired = stored_texts(recipe, pairs.data, run)
    return pairs if selection is None else SelectedPairs(pairs, Selection.load(selection, pairs.data))


def check_texts(recipe: Recipe) -> None:
    """Raise UsageError when reinforce.texts names what cannot be read, before anything is spent."""
    if recipe.reinforce.texts:
        from reinforced_data.labelling.unpaired import read_texts

        read_texts(recipe.reinforce.texts)


def texts_stage(recipe: Recipe, teachers: TeacherSet, set_folder: Path, run: RunFolder, console: Console) -> None:
    """Have the teachers read reinforce.texts into the run's texts.arrow, unless that is there; the first of several processes does.

    Raises UsageError where a file of texts cannot be read, or a set of other teachers cannot be completed.
    """
    from reinforced_data.labelling.unpaired import label_texts, read_texts
    from reinforced_data.store.manifest import read_manifest
    from reinforced_data.store.unpaired import identity, weights_of

    if not recipe.reinforce.texts:
        return
    texts, weights = read_texts(recipe.reinforce.texts), weights_of(read_manifest(set_folder))
    wanted = identity(texts, weights)

    def made() -> bool:
        return _texts_with(wanted, set_folder, run) is not None

    if this_place().rank:
        wait_until(made, f"the first process to have {str(run.texts)!r} read", WEEK_S)
    if made():
        return
    with console.stage("read texts") as advance:
        models = teachers.on(stage_device(recipe.reinforce.device, this_place()))
        found = {teacher.spec.name: teacher.weights_sha256 for teacher in models}
        if found != weights:
            raise UsageError(
                f"reinforce.texts are read by the teachers of the set {str(set_folder)!r} ({', '.join(weights)}), and this call "
                f"has {', '.join(found)} (or the same with other weights). Name those teachers, or leave reinforce.texts out."
            )
        label_texts(run.texts, texts, models, recipe.reinforce.batch_size, advance)
    teachers.rest()


def _texts_with(identity: str, set_folder: Path, run: RunFolder) -> "UnpairedTexts | None":
    """The texts of this identity, of the run or beside the set; a file of others that lies there too is passed over."""
    files = [file for file in (run.texts, RunFolder(set_folder.parent).texts) if file.exists()]
    return next((texts for texts in map(UnpairedTexts, files) if texts.identity == identity), None)


def stored_texts(recipe: Recipe, data: "ReinforcedData", run: RunFolder | None = None) -> "UnpairedTexts | None":
    """The texts that the teachers of a set have read: the run's own where the recipe names some, else those beside the set.

    Raises UsageError where other teachers have read them.
    """
    from reinforced_data.labelling.unpaired import read_texts
    from reinforced_data.store.unpaired import identity, weights_of

    weights, file = weights_of(data.manifest), RunFolder(data.folder.parent).texts
    if recipe.reinforce.texts and run is not None:
        found = _texts_with(identity(read_texts(recipe.reinforce.texts), weights), data.folder, run)
        if found is not None:
            return found
    if not file.exists():
        return None
    texts = UnpairedTexts(file)
    if texts.weights != weights:
        raise UsageError(
            f"The texts {str(file)!r} were read by other teachers than those of {str(data.folder)!r}. Remove the file, then have "
            "these read them: distill reinforce --out ITS_RUN --resume."
        )
    return texts


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

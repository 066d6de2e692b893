"""Settings of the training loop that do not go with a student or its objective: found before anything is labelled."""

from pathlib import Path

from distill.core.errors import UsageError
from distill.learning.loop.trackers import refuse_absent
from distill.models import TeacherSet
from distill.processes import this_place
from distill.recipe import Recipe


def refuse_infeasible(recipe: Recipe) -> None:
    """Raise UsageError where the recipe's student cannot be trained as its train table says."""
    from distill.learning.loop.shards import asked_to_shard

    refuse_absent(recipe.train.trackers)
    asked_to_shard(recipe.train)
    _refuse_parts(recipe.train.batch_size, recipe.train.accumulate, this_place().world)
    if recipe.train.chunk is None or recipe.towers:
        return
    from distill.learning.blocks import refuse_in_chunks
    from distill.learning.loss import LOSSES
    from distill.learning.objective import objective_weights
    from distill.models import student_spec
    from students.student import build_student

    objectives = [recipe.objective, *([recipe.baseline.objective] if recipe.baseline.enabled else [])]
    losses = {name for objective in objectives for name, weight in objective_weights(objective).items() if weight > 0}
    captions = any(LOSSES.get(name).needs_captions for name in losses)
    refuse_in_chunks(
        build_student(student_spec(recipe.student), recipe.seed), recipe.train.batch_norm == "fixed", captions
    )


def refuse_start(recipe: Recipe, set_folder: Path | None, samples: int | None, teachers: TeacherSet) -> None:
    """Raise, before a run folder is made or anything is computed for long, where its training could not begin.

    Looked at: the stored set and the selection in it, how many samples there are for a batch, the student at its sizes, and the
    weights that it starts from (which are kept for the training, where they are the first teacher's).

    Args:
        samples: how many there are in data that is no reinforced set.
    """
    from distill.models import source_of_weights, student_spec
    from distill.stages.evaluate import smaller_batch
    from distill.stages.training_data import known_selection
    from reinforced_data.curation.selection import Selection
    from reinforced_data.store.reader import ReinforcedData
    from students.inherit.start import COPY, NONE
    from students.student import build_student
    from teachers.load import resolve_teacher

    if set_folder is not None:
        data = ReinforcedData(set_folder)
        chosen = known_selection(recipe)
        samples = len(data) if chosen is None else Selection.load(chosen, data).kept
        samples = None if recipe.filters else samples  # known when they have run
    if samples is not None and samples < recipe.train.batch_size:
        raise UsageError(
            f"There are {samples} samples to train on, fewer than one batch of {recipe.train.batch_size}. {smaller_batch(samples)}"
        )
    start = recipe.student
    build_student(student_spec(start), recipe.seed)
    if start.inherit == NONE:
        return
    if start.inherit_from is not None:
        resolve_teacher(start.inherit_from)
    try:
        source_of_weights(start, teachers)
    except UsageError:  # nothing can be inherited from such a model, which is said when training begins
        if start.inherit == COPY:
            raise


def _refuse_parts(batch_size: int, parts: int, world: int) -> None:
    """Raise UsageError where a batch does not divide among processes and the parts that each of them takes it in."""
    if parts > 1 and (batch_size % (world * parts) or batch_size // (world * parts) < 2):
        raise UsageError(
            f"train.accumulate = {parts}: a batch of {batch_size} does not divide into that many parts of two pairs or more in "
            f"each of {world} process{'es' if world > 1 else ''}. Give another train.batch_size."
        )

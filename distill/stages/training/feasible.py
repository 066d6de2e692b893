"""Settings of the training loop that do not go with a student or its objective: found before anything is labelled."""

from distill.core.errors import UsageError
from distill.learning.loop.trackers import refuse_absent
from distill.processes import this_place
from distill.recipe import Recipe


def refuse_infeasible(recipe: Recipe) -> None:
    """Raise UsageError where the recipe's student cannot be trained as its train table says."""
    refuse_absent(recipe.train.trackers)
    _refuse_parts(recipe.train.batch_size, recipe.train.accumulate, this_place().world)
    if recipe.train.chunk is None or recipe.towers:
        return
    from distill.learning.loss import LOSSES
    from distill.learning.objective import objective_weights
    from distill.learning.task import refuse_in_chunks
    from distill.models import student_spec
    from students.student import build_student

    objectives = [recipe.objective, *([recipe.baseline.objective] if recipe.baseline.enabled else [])]
    losses = {name for objective in objectives for name, weight in objective_weights(objective).items() if weight > 0}
    captions = any(LOSSES.get(name).needs_captions for name in losses)
    refuse_in_chunks(
        build_student(student_spec(recipe.student), recipe.seed), recipe.train.batch_norm == "fixed", captions
    )


def _refuse_parts(batch_size: int, parts: int, world: int) -> None:
    """Raise UsageError where a batch does not divide among processes and the parts that each of them takes it in."""
    if parts > 1 and (batch_size % (world * parts) or batch_size // (world * parts) < 2):
        raise UsageError(
            f"train.accumulate = {parts}: a batch of {batch_size} does not divide into that many parts of two pairs or more in "
            f"each of {world} process{'es' if world > 1 else ''}. Give another train.batch_size."
        )

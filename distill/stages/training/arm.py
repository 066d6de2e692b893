"""`Arm`: one student to train, and what every training of it is made of: its losses, its batches, its optimisation."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.core.clip.channels_last import channels_last
from distill.core.folders.disk import free_shared_bytes
from distill.core.machine import usable_cores
from distill.core.progress import Progress
from distill.models import TeacherSet
from distill.processes import processes_here, stage_device, this_place, wait_until
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.training.progressive import Beginning
from distill.stages.training.start import calibration, rates_by_origin

if TYPE_CHECKING:
    from torch import Tensor

    from distill.learning.task import DistillTask
    from reinforced_data.sample import Batch
    from students.inherit.calibration import Calibration


@dataclass(frozen=True)
class Arm:
    """One student to train: its place, and what sets it apart from the other arms of a run.

    Attributes:
        name: what progress calls it.
        run: gets the student, its checkpoints and metrics.
        objective, inherit: a preset's name or weights per loss, and an inheritance strategy.
        teachers: what weights may be inherited from; None = nothing.
        plain: the baseline, which no teacher may touch, not even by weights of consistency.
    """

    name: str
    run: RunFolder
    objective: str | dict[str, float]
    inherit: str
    teachers: TeacherSet | None
    plain: bool = False


def distill_task(
    recipe: Recipe, arm: Arm, student: Any, data: Any, inherited: Mapping[str, Any] | None = None
) -> "DistillTask":
    """What trains the student of an arm: its losses against the teachers whose embeddings the data carries.

    `inherited` says what the student starts from. An image tower that starts at random came with no statistics, so its BatchNorms
    use the batch's even where the recipe says "fixed" (unless train.chunk asks for a batch in pieces, which has none).
    """
    from distill.learning.freezing import TextFreeze
    from distill.learning.objective import Objective, fixed_scale
    from distill.learning.task import DistillTask

    facts = data.teacher_facts
    objective = Objective(arm.objective, int(student.spec.model_cfg["embed_dim"]), facts)
    consistency = recipe.captions.consistency_weight if facts and not arm.plain else None
    freeze = TextFreeze(recipe.train.freeze_text_steps, recipe.train.frozen_text)
    came_with_them = inherited is None or "visual" in inherited["towers"] or recipe.train.chunk is not None
    return DistillTask(
        student, objective, facts, fixed_scale(arm.objective), consistency, freeze,
        recipe.train.batch_norm == "fixed" and came_with_them, recipe.train.chunk, recipe.train.texts_weight,
    )  # fmt: skip


def pairs_of(recipe: Recipe, arm: Arm, student: Any, data: Any, teacher: str | None) -> "Calibration | None":
    """Pairs to score and measure a start on; the losses' own projections start from the recipe's seed.

    `teacher`: whose stored embeddings are the source's own, None = nobody's.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        task = distill_task(recipe, arm, student, data)
        return calibration(data, task, student, seed=recipe.seed, teacher=teacher)


def loader_workers(recipe: Recipe, data: Any) -> tuple[int, str]:
    """(data loading processes of this process, why so many), from train.workers."""
    import torch

    from reinforced_data.training.loader import enough_workers

    if recipe.train.workers != "auto":
        return recipe.train.workers, "as told"
    gpu = recipe.train.device != "cpu" and torch.cuda.is_available()
    batch = recipe.train.batch_size // this_place().world
    return enough_workers(data, usable_cores(), processes_here(), gpu, batch, free_shared_bytes())


def compiling(recipe: Recipe, begin: Beginning) -> tuple[bool, str]:
    """(whether the towers of a student that begins to train are compiled, why), from train.compile."""
    import torch

    from distill.learning.loop.shards import asked_to_shard
    from distill.learning.loop.speed import worth_compiling

    place = this_place()
    steps = recipe.train.steps if begin.leg is None else begin.leg.last - begin.leg.first
    device = torch.device(stage_device(recipe.train.device, place))
    sharded = place.world > 1 and asked_to_shard(recipe.train)
    return worth_compiling(recipe.train, begin.student, steps, device, sharded)


def stream_of(
    recipe: Recipe, data: Any, tokenize: "Callable[[list[str]], Tensor]"
) -> "Callable[[int, int], Iterator[Batch]]":
    """What `fit` draws this rank's batches from; they are made, rendered and tokenised by the loader's processes."""
    import torch

    from reinforced_data.training.loader import batches

    pinned = recipe.train.device != "cpu" and torch.cuda.is_available()

    def stream(first_step: int, last_step: int) -> "Iterator[Batch]":
        rank, world = _rank()
        return batches(
            data, batch_size=recipe.train.batch_size, seed=recipe.seed, first_step=first_step, last_step=last_step,
            rank=rank, world=world, workers=loader_workers(recipe, data)[0], tokenize=tokenize, pin_memory=pinned,
        )  # fmt: skip

    return stream


def fit_student(
    recipe: Recipe, arm: Arm, data: Any, place: RunFolder, begin: Beginning, progress: Progress
) -> "DistillTask":
    """Train a student from its beginning, with checkpoints in `place`; a stage that is done is only read."""
    from distill.learning import checkpoint as checkpoints
    from distill.learning.fit import fit
    from distill.learning.loop.feed import pair_arguments

    task = distill_task(recipe, arm, begin.student, data, begin.inherited)
    task.load_state_dict(begin.beside, strict=False)
    done = checkpoints.latest(place.checkpoints)
    if place is not arm.run and done is not None and begin.leg is not None and done.step == begin.leg.last:
        task.load_state_dict(checkpoints.read_task(done))
        return task.eval()
    optim = recipe.train.model_copy(update={"compile": compiling(recipe, begin)[0]})
    with channels_last(begin.student.clip.visual):
        fit(
            task,
            stream_of(recipe, data, begin.student.remembered_tokens()),
            pair_arguments(begin.student.tokenize),
            place.checkpoints,
            arm.run.metrics,
            optim=optim,
            checkpointing=recipe.train,
            seed=recipe.seed,
            progress=progress,
            factor=rates_by_origin(begin.inherited.get("origins", {}), recipe.train),
            leg=begin.leg,
        )
    if begin.leg is not None:
        last = begin.leg.last
        wait_until(lambda: _reached(place, last), f"the first process to write the checkpoint of step {last}")
    return task


def _reached(place: RunFolder, step: int) -> bool:
    from distill.learning.checkpoint import latest

    found = latest(place.checkpoints)
    return found is not None and found.step >= step


def _rank() -> tuple[int, int]:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1

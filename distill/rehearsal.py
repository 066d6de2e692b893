"""`--rehearse`: the whole job at full model size with random weights on a handful of samples.

It proves the machine, the disk, the exporters and the phone before a GPU-week is spent, and says nothing of accuracy;
everything it writes carries `MARK`.
"""

from dataclasses import replace
from typing import Any

from distill.recipe import Recipe
from reinforced_data.sample import ZeroShotTask

MARK = "REHEARSAL: random weights, a handful of samples; says nothing of accuracy"
SAMPLES = 8


def rehearsal_of(recipe: Recipe) -> Recipe:
    """The same models, data and targets, with the amounts cut to a handful."""
    cuts: dict[str, dict[str, Any]] = {
        "reinforce": {"views_per_image": 1, "shard_size": 4, "batch_size": 4, "verify": 2, "calibrate": False},
        "train": {
            "steps": 2,
            "batch_size": 4,
            "warmup_steps": 1,
            "checkpoint_every": 1,
            "checkpoint_minutes": None,
            "samples": None,
            "epochs": None,
            "log_every": 1,
        },
        "baseline": {"enabled": False},
        "eval": {"limit": SAMPLES, "batch_size": 4},
        "export": {"parity_samples": 2, "jobs": 1},
        "profile": {"warmup_runs": 1, "runs": 4, "rounds": 2},
    }
    sections = {name: getattr(recipe, name).model_copy(update=update) for name, update in cuts.items()}
    return recipe.model_copy(update={**sections, "limit": SAMPLES, "rehearse": True})


def small_task(task: ZeroShotTask | None) -> ZeroShotTask | None:
    """The first classes of a zero-shot task with one template: prompts through a full-size text tower cost seconds each."""
    if task is None:
        return None
    kept = [index for index, label in enumerate(task.labels) if label < SAMPLES][:SAMPLES]
    if not kept:
        return None
    return replace(
        task,
        images=tuple(task.images[index] for index in kept),
        labels=tuple(task.labels[index] for index in kept),
        class_names=task.class_names[:SAMPLES],
        templates=task.templates[:1],
    )

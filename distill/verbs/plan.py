"""`distill plan`: what a `distill run` of the same words would do and take, before anything is spent."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core.existing import Existing
from distill.core.strict import Settings
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.verbs.expected import Row
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of


@dataclass(frozen=True)
class PlanResult:
    """What a run would do and take.

    Attributes:
        out: the run folder that it would write. exists: whether something lies there, which a run asks about.
        recipe: every setting, as the run would keep it.
        filled: dotted key -> why it has its value, of settings that nobody made.
        stages: in order.
        data: "images" that are trained on, real "captions" of an image, images that are "judged", "labelled" already or not.
        training: "steps", "batch_size", "seen" samples and "epochs" of them.
        hours: a row per stage, "low" and "high" None where nothing is known.
        storage: a row per thing that is kept, in "bytes".
        disk: "place", "free_bytes" and "needed_bytes" (of what is known).
        downloads: a row per thing of a hub and whether it is here.
        terms: a row per origin, with what its licence forbids.
        targets: a row per export and what its packages need.
        choice: of the student, where a budget chose it.
    """

    out: Path
    recipe: Row
    filled: dict[str, str]
    stages: list[str]
    data: Row
    training: Row
    hours: list[Row]
    storage: list[Row]
    disk: Row
    downloads: list[Row]
    terms: list[Row]
    targets: list[Row]
    choice: Row | None = None
    exists: bool = False

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {**asdict(self), "out": str(self.out)}


def plan(
    recipe: RecipeLike = None,
    *,
    teacher: OneOrMore = (),
    captioner: OneOrMore = (),
    student: str | None = None,
    data: AnyPath | None = None,
    image_column: str | None = None,
    caption_column: str | Sequence[str] = (),
    filter: OneOrMore = (),
    target: OneOrMore = (),
    precision: OneOrMore = (),
    device: OneOrMore = (),
    max_latency: float | str | None = None,
    max_size: float | str | None = None,
    max_memory: float | str | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | str | None = None,
    lr: float | None = None,
    workers: int | str | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    out: AnyPath | None = None,
    rehearse: bool = False,
    rehearsal: AnyPath | None = None,
    settings: Settings = (),
    console: Console | None = None,
) -> PlanResult:
    """Say what a run of the same words would do: its length and batch with reasons, hours, gigabytes, downloads, terms, packages.

    Nothing is written, no weights are read or downloaded. The data is opened (a set of a hub is fetched then), and a few samples
    of it are looked at.

    Args:
        rehearsal: a finished run with --rehearse of the same models on this machine, whose times are scaled to hours; None = the
            one in the folder that such a run writes by itself. The others are as of `distill.run`.

    Raises UsageError for what `distill.run` refuses before it loads a model, and for a `rehearsal` that tells nothing of the job.
    """
    from distill.models import TeacherSet
    from distill.stages.train import arms_of
    from distill.verbs import expected
    from distill.verbs.rehearsed import hours
    from distill.verbs.run import check_words, default_out, settled, stages_of
    from reinforced_data.source import opening_once

    words = recipe_of(
        recipe, settings, teacher=teacher, captioner=captioner, student=student, data=data, filter=filter, target=target,
        precision=precision, device=device, max_latency=max_latency, max_size=max_size, max_memory=max_memory,
        rehearse=rehearse, epochs=epochs, steps=steps, batch_size=batch_size, lr=lr, workers=workers,
        image_size=image_size, seed=seed, image_column=image_column, caption_column=caption_column,
    )  # fmt: skip
    run = RunFolder(default_out(words) if out is None else out)
    with opening_once():
        job, filled, choice = settled(words, run, Existing.REFUSE, console or Console(to=lambda text: None))
        check_words(job, run)
        teachers = TeacherSet(job.teachers, random_weights=job.rehearse, seed=job.seed)
        stages, found = stages_of(job, teachers, run), expected.look_at(job)
        arms = len(arms_of(job, teachers, run))
        storage = expected.storage(job, found, teachers, arms)
        before = default_out(words.model_copy(update={"rehearse": True})) if rehearsal is None else rehearsal
        return PlanResult(
            out=run.path,
            recipe=job.model_dump(mode="json"),
            filled=filled,
            stages=stages,
            data=asdict(found),
            training=_training(job, found.images),
            hours=hours(job, found, stages, Path(before), named=rehearsal is not None),
            storage=storage,
            disk=_disk(run.path, storage),
            downloads=expected.downloads(job, teachers),
            terms=expected.terms(job, teachers),
            targets=expected.environments(job),
            choice=None if choice is None else choice.to_json(),
            exists=run.path.is_dir() and any(run.path.iterdir()) and not run.begun_in_vain(),
        )


def _training(job: Recipe, images: int) -> Row:
    seen = job.train.steps * job.train.batch_size
    epochs = round(seen / max(1, images), 3)
    return {"steps": job.train.steps, "batch_size": job.train.batch_size, "seen": seen, "epochs": epochs}


def _disk(out: Path, storage: list[Row]) -> Row:
    """What is free where the run folder will lie, and what it needs of that as far as it is known."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    needed = sum(row["bytes"] or 0 for row in storage)
    return {"place": str(place), "free_bytes": shutil.disk_usage(place).free, "needed_bytes": needed}

"""`distill reinforce`: store the teachers' knowledge of a data set once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.core.strict import Settings
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.opening import discard_unless, share_run
from distill.verbs.endings import going_on
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_to_go_on
from distill.verbs.results import ReinforceResult
from reinforced_data.source import opening_once
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE


def reinforce(
    recipe: RecipeLike = None,
    *,
    out: AnyPath,
    teacher: OneOrMore = (),
    captioner: OneOrMore = (),
    data: AnyPath | None = None,
    image_column: str | None = None,
    caption_column: str | Sequence[str] = (),
    filter: OneOrMore = (),
    verify: int | str | None = None,
    calibrate: bool = False,
    executor: str | None = None,
    tasks: int | None = None,
    workers: int | None = None,
    slurm_partition: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    extend: bool = False,
    settings: Settings = (),
    console: Console | None = None,
) -> ReinforceResult:
    """Label the data with the teachers into out/reinforced (Arrow shards and a manifest), then run the filters.

    Started several times over by a launcher (`accelerate launch -m distill reinforce ...`), the processes share the
    shards. One that ends before the others returns only what is missing.

    Args:
        recipe, teacher, captioner, data, image_column, caption_column, filter, settings: as of `distill.run`. A call that
            resumes or extends goes on with the recipe of the run in `out` where `recipe` is None.
        out: run folder.
        verify: stored views to run through the live teachers again: a number, or "all"; 0 = none.
        calibrate: fit logit scales on held-out pairs where none is published.
        executor: "local", "slurm" or "ray" label in `tasks` shares, `workers` at a time.
        seed: of the views and of every other draw.
        extend: add teachers, captioners or views to the finished set in `out`, computing only what it lacks.

    Raises what `distill.run` raises.
    """
    run, existing = RunFolder(out), Existing.of(resume=resume, overwrite=overwrite, extend=extend)
    with going_on(run), opening_once():
        job = recipe_to_go_on(
            "reinforce", run, existing, recipe, settings, teacher=teacher, captioner=captioner, data=data, filter=filter,
            verify=verify, calibrate=calibrate, executor=executor, tasks=tasks, tasks_at_once=workers,
            slurm_partition=slurm_partition, seed=seed, image_column=image_column, caption_column=caption_column,
        )  # fmt: skip
        return _reinforce(job, run, existing, console or Console())


def _reinforce(job: Recipe, run: RunFolder, existing: Existing, console: Console) -> ReinforceResult:
    from distill.models import TeacherSet
    from distill.processes import this_place
    from distill.stages.read_data import look_first, tell_how_read
    from distill.stages.reinforce import refuse_unused, reinforce_stage, stages_of_set
    from distill.stages.training_data import caption_stage, check_curation, check_texts, selection_stage, texts_stage

    place, extend = this_place(), existing is Existing.EXTEND
    if extend and not (run.resolved.exists() or run.reinforced.exists()):
        raise UsageError(
            f"--extend adds to a finished set, and there is none in {str(run)!r}. Make it first, without --extend."
        )
    console.plan(stages_of_set(job))
    check_curation(job)
    check_texts(job)
    refuse_unused(job, extend=extend)
    if not (run.reinforced / MANIFEST_FILE).exists() or extend:
        look_first(job)
    teachers = TeacherSet(job.teachers, random_weights=job.rehearse, seed=job.seed)
    share_run(run, job, existing, verb="reinforce")
    if place.rank == 0:
        console.log_to(run.log)
    with discard_unless(run, run.reinforced / PLAN_FILE, first=place.rank == 0):
        tell_how_read(job, run, console, evaluation=False)
        set_folder = reinforce_stage(job, teachers, run, console, extend=extend, wait=False)
    if set_folder is None:
        from reinforced_data.labelling.reinforce import unfinished

        return ReinforceResult(run.reinforced, False, {"missing_shards": len(list(unfinished(run.reinforced)))})
    caption_stage(job, set_folder, run, console)
    texts_stage(job, teachers, set_folder, run, console)
    selection = selection_stage(job, set_folder, run, console)
    return ReinforceResult(set_folder, True, _facts(run, set_folder), selection)


def _facts(run: RunFolder, set_folder: Path) -> dict[str, Any]:
    """Counts of the set, its terms, and what was checked of it."""
    manifest = atomic.read_json(set_folder / MANIFEST_FILE)
    return {
        "samples": manifest["samples"],
        "captions": manifest["captions"],
        "rejected": sum(manifest["rejected_reasons"].values()),
        "rejected_reasons": manifest["rejected_reasons"],
        "shards": len(manifest["shards"]),
        "size_bytes": sum(shard["size_bytes"] for shard in manifest["shards"]),
        "licence": manifest["licence_summary"],
        "read_as": atomic.read_json(run.read_as) if run.read_as.exists() else {},
        "verify": atomic.read_json(run.verify) if run.verify.exists() else None,
        "caption_report": atomic.read_json(run.captions) if run.captions.exists() else None,
    }

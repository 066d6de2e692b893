"""`distill reinforce`: store the teachers' knowledge of a data set once."""

from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.recipe import Recipe


def reinforce(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    extend: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Label recipe.data with recipe.teachers into `out` (Arrow shards and a manifest), then run recipe.filters.

    Started several times over by a launcher (`accelerate launch -m distill reinforce ...`), the processes share the
    shards. One that ends before the others returns only what is missing.

    Args:
        extend: add teachers, captioners or views to the finished set in `out`, computing only what it lacks.

    Returns counts and the check. Raises what `distill.run` raises.
    """
    from distill.models import TeacherSet
    from distill.processes import this_place
    from distill.run_folder import discard_unless, open_run
    from distill.stages.label import VERIFY_FILE
    from distill.stages.reinforce import REINFORCED, refuse_unused, reinforce_stage
    from distill.stages.training_data import CAPTIONS_FILE, caption_stage, check_curation, selection_stage

    console = console or Console()
    if overwrite and this_place().world > 1:
        raise UsageError(
            "--overwrite and several processes do not go together: one might label while another still deletes. Remove the "
            "old set with one process first, or give another --out."
        )
    check_curation(recipe)
    refuse_unused(recipe, extend=extend)
    teachers = TeacherSet(recipe.teachers, random_weights=recipe.rehearse, seed=recipe.seed)
    if this_place().rank == 0:
        open_run(out, recipe, resume=resume, overwrite=overwrite, extend=extend)
        console.log_to(out / "log.txt")
    with discard_unless(out, out / REINFORCED / "plan.json", first=this_place().rank == 0):
        stored = reinforce_stage(recipe, teachers, out / REINFORCED, console, extend=extend, wait=False)
    if stored is None:
        from reinforced_data.labelling.reinforce import unfinished

        missing = len(list(unfinished(out / REINFORCED)))
        return {"out": str(out / REINFORCED), "finished": False, "missing_shards": missing}
    caption_stage(recipe, stored, out, console)
    selection = selection_stage(recipe, stored, out, console)
    manifest = atomic.read_json(stored / "manifest.json")
    checked = out / VERIFY_FILE
    return {
        "out": str(stored),
        "samples": manifest["samples"],
        "captions": manifest["captions"],
        "rejected": sum(manifest["rejected_reasons"].values()),
        "rejected_reasons": manifest["rejected_reasons"],
        "shards": len(manifest["shards"]),
        "size_bytes": sum(shard["size_bytes"] for shard in manifest["shards"]),
        "licence": manifest["licence_summary"],
        "selection": None if selection is None else str(selection),
        "verify": atomic.read_json(checked) if checked.exists() else None,
        "caption_report": atomic.read_json(out / CAPTIONS_FILE) if (out / CAPTIONS_FILE).exists() else None,
    }

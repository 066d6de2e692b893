"""`distill reinforce`: store the teachers' knowledge of a data set once."""

from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.recipe import Recipe


def reinforce(
    recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Label recipe.data with recipe.teachers into `out` (Parquet shards and a manifest). Returns counts and the check.

    Raises what `distill.run` raises.
    """
    from distill.labelling import VERIFY_FILE
    from distill.models import TeacherSet
    from distill.rundir import open_run
    from distill.stages import REINFORCED, reinforce_stage

    console = console or Console()
    teachers = TeacherSet(recipe.teachers, random_weights=recipe.rehearse, seed=recipe.seed)
    open_run(out, recipe, resume=resume, overwrite=overwrite)
    console.log_to(out / "log.txt")
    stored = reinforce_stage(recipe, teachers, out / REINFORCED, console)
    if not (stored / "manifest.json").exists():
        return {
            "out": str(stored),
            "state": "given to the batch system; call again with --resume when its tasks are done",
        }
    manifest = atomic.read_json(stored / "manifest.json")
    checked = out / VERIFY_FILE
    return {
        "out": str(stored),
        "samples": manifest["samples"],
        "rejected": len(manifest["rejected"]),
        "shards": len(manifest["shards"]),
        "size_bytes": sum(shard["size_bytes"] for shard in manifest["shards"]),
        "licence": manifest["licence_summary"],
        "verify": atomic.read_json(checked) if checked.exists() else None,
    }

"""The reinforced set of a run: recipe.data itself when it is one, else made here and checked."""

from pathlib import Path

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.models import TeacherSet
from distill.processes import WEEK_S, this_place, wait_until
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.label import cluster_stage, is_published, label, label_on_cluster, verify_stage
from reinforced_data.store.names import MANIFEST_FILE, PLAN_FILE, SHARD_GLOB


def is_reinforced(path: Path) -> bool:
    """Whether `path` is a reinforced set, finished or not."""
    return (path / PLAN_FILE).is_file() or ((path / MANIFEST_FILE).is_file() and any(path.glob(SHARD_GLOB)))


def reinforce_stage(
    recipe: Recipe, teachers: TeacherSet, run: RunFolder, console: Console, *, extend: bool = False, wait: bool = True
) -> Path | None:
    """The folder of the reinforced set: recipe.data itself when it is one, else the run's own, made or completed.

    Processes of one launcher share the shards. `wait`: for those of other processes; else None is returned when some
    are missing after this process's own, or a batch system has only taken the job.
    """
    if is_reinforced(Path(recipe.data)):
        return Path(recipe.data)
    set_folder, finished = run.reinforced, (run.reinforced / MANIFEST_FILE).exists
    if extend or not finished():
        if recipe.cluster.executor == "none":
            label(recipe, teachers, set_folder, console, this_place(), extend=extend)
        else:
            label_on_cluster(recipe, teachers, set_folder, console, extend=extend)
    if not finished():
        if not wait:
            return None
        console.say("Waiting for the shards of other processes.")
        wait_until(finished, f"the other processes' shards in {str(set_folder)!r}", WEEK_S)
    verify_stage(recipe, teachers, set_folder, console)
    teachers.rest()
    return set_folder


def stages_of_set(recipe: Recipe) -> list[str]:
    """The names of the stages that make a set by this recipe and choose in it, in order, as the console shows them."""
    if is_reinforced(Path(recipe.data)):
        names = []
    elif is_published(recipe.data):
        names = ["import the published set"]
    elif recipe.cluster.executor != "none":
        names = ["load teachers", cluster_stage(recipe)]
    else:
        names = ["load teachers", *(["calibrate logit scales"] if recipe.reinforce.calibrate else []), "reinforce"]
    if names and recipe.reinforce.verify:
        names.append("verify stored embeddings")
    asked = {"measure captions": recipe.captioners, "read texts": recipe.reinforce.texts, "curate": recipe.filters}
    return names + [name for name, given in asked.items() if given]


def refuse_unused(recipe: Recipe, *, extend: bool = False) -> None:
    """Raise UsageError, naming them, for settings that could do nothing with recipe.data as it is."""
    settings, published, finished = recipe.reinforce, is_published(recipe.data), is_reinforced(Path(recipe.data))
    if settings.images and not (published or finished):
        raise UsageError(
            "reinforce.images says where the images of a published set lie (--data datacompdr:TARS), and "
            f"{recipe.data!r} is none. Leave it out."
        )
    unused = {"--extend": extend, "--captioner": recipe.captioners}
    if published:
        unused |= {"--calibrate": settings.calibrate, "--executor": recipe.cluster.executor != "none"}
        unused |= {"--image-column": recipe.image_column, "--caption-column": recipe.caption_column}
        unused |= {"reinforce.sentences": settings.sentences, "caption_columns": settings.caption_columns}
    elif finished:
        file = Path(recipe.data) / PLAN_FILE
        plan = atomic.read_json(file) if file.exists() else {}
        known = {facts["name"] for facts in plan.get("captioners", ())}
        unused["--captioner"] = not set(recipe.captioners) <= known
    named = [name for name, given in unused.items() if given]
    if named and (published or finished):
        raise UsageError(
            f"{recipe.data!r} is reinforced already and is taken as it is, so {', '.join(named)} would do nothing. Leave "
            "it out; a set made here grows by: distill reinforce --out ITS_RUN --extend."
        )

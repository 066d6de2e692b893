"""`distill train`: a student from a reinforced set, a full teacher from a source, or heads over frozen towers."""

from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core.errors import UsageError
from distill.recipe import Recipe


def train(
    recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Train into out/student (out/teacher for heads over towers).

    With recipe.data a reinforced set, teacher embeddings come from it. With any other source the objective must need no
    teacher (objective = "clip"): so full teachers are trained. Returns the folder and its parameter counts.

    Raises what `distill.run` raises.
    """
    from distill.learning.objective import refuse_without_decoder, refuse_without_teachers
    from distill.models import TeacherSet, student_spec
    from distill.run_folder import open_run
    from distill.stages import training_data
    from distill.stages.reinforce import is_reinforced
    from distill.stages.train import train_model, training_licence
    from distill.stages.training_data import caption_policy
    from reinforced_data.source import open_source
    from reinforced_data.training.pairs import RawPairs
    from students.student import count_parameters, load_student

    console = console or Console()
    if recipe.towers is not None:
        from distill.stages.align import align_towers

        return align_towers(recipe, out, resume=resume, overwrite=overwrite, console=console)
    size = student_spec(recipe.student).image_size
    refuse_without_decoder(recipe.objective, recipe.student.name, student_spec(recipe.student).captions)
    stored = Path(recipe.data) if is_reinforced(Path(recipe.data)) else None
    training_data.check_curation(recipe)
    if stored is None:
        if recipe.filters or recipe.selection not in (None, "none"):
            raise UsageError(
                f"Filters and selections are of reinforced sets, and {recipe.data!r} is none. Reinforce it first: distill "
                "reinforce."
            )
        refuse_without_teachers(recipe.objective)
    captions = caption_policy(recipe.captions)
    if stored is None and recipe.captions.consistency_weight is not None:
        raise UsageError(
            f"captions.consistency_weight compares what teachers stored, and {recipe.data!r} carries nothing of them. "
            "Reinforce it first, or leave the setting out."
        )
    source = None if stored else open_source(recipe.data, "train", recipe.limit, recipe.reinforce.caption_columns)
    inherits = recipe.student.inherit != "none"
    teachers = TeacherSet(recipe.teachers if inherits else (), random_weights=recipe.rehearse, seed=recipe.seed)
    open_run(out, recipe, resume=resume, overwrite=overwrite)
    console.log_to(out / "log.txt")
    selection = training_data.selection_stage(recipe, stored, out, console, wait=True) if stored else None
    with console.stage("train") as advance:
        folder = train_model(
            recipe,
            out,
            data=training_data.stored_pairs(recipe, stored, selection)
            if stored
            else RawPairs(source, recipe.reinforce.view_preset, size, captions),  # type: ignore[arg-type]
            teachers=teachers if inherits else None,
            objective=recipe.objective,
            inherit=recipe.student.inherit,
            licence=training_licence(stored, source.licence if source else ""),
            advance=advance,
        )
    return {"out": str(folder), "parameters": count_parameters(load_student(folder).clip)}

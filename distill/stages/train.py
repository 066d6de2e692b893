"""From a recipe and its pairs to a trained student folder: what `distill train` and `distill run` share."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Advance, Console
from distill.core import atomic
from distill.core.errors import DistillError, UsageError
from distill.models import TeacherSet, new_student
from distill.recipe import Recipe, TrainRecipe
from distill.stages.training_data import stored_pairs

if TYPE_CHECKING:
    from torch import Tensor

STUDENT_DIR = "student"
INHERITANCE_FILE = "inheritance.json"
BASELINE = "plain"


def fit_recipe(train: TrainRecipe, seed: int) -> dict[str, Any]:
    """The keyword arguments of `distill.learning.fit.fit` that a recipe's train table sets."""
    names = ("steps", "lr", "lr_floor", "warmup_steps", "weight_decay", "clip_norm", "precision", "device",
             "checkpoint_every", "keep_checkpoints", "log_every")  # fmt: skip
    return {name: getattr(train, name) for name in names} | {"betas": (train.beta1, train.beta2), "seed": seed}


def report_progress(advance: Advance) -> Any:
    """A `fit` progress callback that shows loss, speed and data wait."""

    def show(done: int, total: int, row: dict[str, float]) -> None:
        note = f"loss {row['loss']:.3f}, {row['samples_per_s']:.0f} samples/s, data wait {row['data_wait_share']:.0%}"
        advance(done, total, note)

    return show


def train_model(
    recipe: Recipe,
    out: Path,
    *,
    data: Any,
    teachers: TeacherSet | None,
    objective: str | dict[str, float],
    inherit: str,
    licence: str,
    advance: Advance,
    plain: bool = False,
) -> Path:
    """Train the recipe's student into out/student/, resuming from out/checkpoints. Returns the folder.

    Args:
        data: `StoredPairs` or `RawPairs`, at the student's image size.
        teachers: what may be inherited from; None = nothing.
        objective, inherit: given apart because the plain baseline differs in these two alone.
        licence: goes into the student's card.
        plain: the baseline, which no teacher may touch, not even by weights of consistency.
    """
    folder = out / STUDENT_DIR
    if folder.exists():  # written last and atomically, so it is whole
        return folder
    from distill.learning.fit import fit
    from distill.learning.objective import Objective, fixed_scale
    from distill.learning.task import DistillTask
    from reinforced_data.training.loader import batches

    out.mkdir(parents=True, exist_ok=True)
    student, inherited = new_student(recipe.student.model_copy(update={"inherit": inherit}), teachers, recipe.seed)
    atomic.write_json(out / INHERITANCE_FILE, inherited)
    facts = data.teacher_facts
    width = int(student.spec.model_cfg["embed_dim"])
    losses = Objective(objective, width, facts)
    consistency = recipe.captions.consistency_weight if facts and not plain else None
    task = DistillTask(student, losses, facts, fixed_scale(objective), consistency)
    train = recipe.train

    def stream(first_step: int, last_step: int) -> Any:
        rank, world = _rank()
        return batches(
            data, batch_size=train.batch_size, seed=recipe.seed, first_step=first_step, last_step=last_step,
            rank=rank, world=world, workers=train.workers,
        )  # fmt: skip

    fit(
        task,
        stream,
        _cached_tokenize(student),
        out,
        **fit_recipe(train, recipe.seed),
        progress=report_progress(advance),
    )
    from distill.rehearsal import MARK

    card = {
        "licence": licence,
        "objective": objective,
        "samples": train.steps * train.batch_size,
        "seed": recipe.seed,
        "teachers": list(facts) if task.objective.needs_teachers else [],
        "inherited": {key: value for key, value in inherited.items() if key != "plan"},
        **({"rehearsal": MARK} if recipe.rehearse else {}),
    }
    if _rank()[0] == 0:
        student.save(folder, card, half=train.half_weights)
    return folder


def _rank() -> tuple[int, int]:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _cached_tokenize(student: Any) -> Any:
    """Tokenise with a memory: a caption comes back every epoch, and cleaning its text costs more than the look-up."""
    import torch

    @lru_cache(maxsize=200_000)
    def one(caption: str) -> "Tensor":
        return student.tokenize([caption])[0]  # type: ignore[no-any-return]

    return lambda captions: torch.stack([one(caption) for caption in captions])


def model_folder(path: Path) -> Path:
    """The student folder that `path` means: itself, or the student/ (or teacher/) inside a run."""
    for candidate in (path, path / STUDENT_DIR, path / "teacher"):
        if (candidate / "open_clip_config.json").is_file():
            return candidate
    if not path.exists():
        raise UsageError(f"There is no {str(path)!r}. Give a run folder or the student/ folder inside one.")
    raise DistillError(
        f"{str(path)!r} holds no trained student yet. Finish it first: distill run --out {path} --resume."
    )


def training_licence(stored: Path | None, source_licence: str) -> str:
    """What a student trained on this must say of its terms."""
    if stored is None:
        return source_licence
    return str(atomic.read_json(stored / "manifest.json")["licence_summary"])


def train_stages(
    recipe: Recipe,
    stored: Path,
    teachers: TeacherSet,
    out: Path,
    console: Console,
    selection: Path | None = None,
) -> None:
    """The student into out/student, and the plain one (no teacher anywhere) into out/plain/student.

    Args:
        selection: folder of the samples to train both on; None = all of `stored`.
    """
    pairs = None
    arms = [("train student", out, recipe.objective, recipe.student.inherit)]
    if recipe.baseline.enabled:
        arms.append(("train plain student", out / BASELINE, recipe.baseline.objective, recipe.baseline.inherit))
    for name, folder, objective, inherit in arms:
        if (folder / "student").exists():
            continue
        with console.stage(name) as advance:
            pairs = pairs or stored_pairs(recipe, stored, selection)
            train_model(
                recipe,
                folder,
                data=pairs,
                teachers=teachers,
                objective=objective,
                inherit=inherit,
                licence=training_licence(stored, ""),
                advance=advance,
                plain=folder != out,
            )

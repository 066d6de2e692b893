"""The stages that verbs are made of. Each leaves its result in the run folder, written last and atomically, and does
nothing when that result is there: calling all of them again is how a run resumes.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.models import TeacherSet, student_spec
from distill.recipe import ProfileRecipe, Recipe
from distill.rehearsal import MARK, small_task
from distill.training import train_model

if TYPE_CHECKING:
    from distill.evalset import Embedder, EvalSet

REINFORCED = "reinforced"
VERIFY_FILE = "reinforced-verify.json"
BASELINE = "plain"


def is_reinforced(path: Path) -> bool:
    """Whether `path` is a reinforced set, finished or not."""
    return (path / "plan.json").is_file() or ((path / "manifest.json").is_file() and any(path.glob("shard-*.arrow")))


def reinforce_stage(recipe: Recipe, teachers: TeacherSet, out: Path, console: Console) -> Path:
    """The folder of the reinforced set: recipe.data itself when it is one, else `out`, made or completed."""
    from reinforced_data.open import open_source
    from reinforced_data.verify import verify
    from reinforced_data.write import reinforce

    if is_reinforced(Path(recipe.data)):
        return Path(recipe.data)
    settings = recipe.reinforce
    if not (out / "manifest.json").exists():
        with console.stage("load teachers"):
            models = teachers.loaded
        with console.stage("reinforce") as advance:
            reinforce(
                open_source(recipe.data, "train", recipe.limit, recipe.reinforce.caption_columns),
                models,
                out,
                views_per_image=settings.views_per_image,
                view_preset=settings.view_preset,
                embed_dtype=settings.embed_dtype,
                shard_size=settings.shard_size,
                batch_size=settings.batch_size,
                seed=recipe.seed,
                resume=out.exists(),
                progress=lambda done, total: advance(done, total, "images"),
            )
    checked = out.parent / VERIFY_FILE
    if settings.verify and not checked.exists():
        with console.stage("verify stored embeddings"):
            atomic.write_json(checked, verify(out, teachers.loaded, settings.verify, recipe.seed))
    return out


def training_licence(stored: Path | None, source_licence: str) -> str:
    """What a student trained on this must say of its terms."""
    if stored is None:
        return source_licence
    return str(atomic.read_json(stored / "manifest.json")["licence_summary"])


def train_stages(recipe: Recipe, stored: Path, teachers: TeacherSet, out: Path, console: Console) -> None:
    """The student into out/student, and the plain one (no teacher anywhere) into out/plain/student."""
    from reinforced_data.pairs import StoredPairs

    pairs = None
    arms = [("train student", out, recipe.objective, recipe.student.inherit)]
    if recipe.baseline.enabled:
        arms.append(("train plain student", out / BASELINE, recipe.baseline.objective, recipe.baseline.inherit))
    for name, folder, objective, inherit in arms:
        if (folder / "student").exists():
            continue
        with console.stage(name) as advance:
            pairs = pairs or StoredPairs(stored, student_spec(recipe.student).image_size)
            train_model(
                recipe,
                folder,
                data=pairs,
                teachers=teachers,
                objective=objective,
                inherit=inherit,
                licence=training_licence(stored, ""),
                advance=advance,
            )


def open_evalset(recipe: Recipe) -> "EvalSet":
    """The evaluation data of a recipe: eval.data, or the eval split of the training data."""
    from distill.evalset import load_evalset
    from reinforced_data.open import open_source

    location = recipe.eval.data or recipe.data
    if is_reinforced(Path(location)):
        location = atomic.read_json(Path(location) / "plan.json")["source"]["location"]
    labelled = recipe.eval.zero_shot
    data = load_evalset(
        open_source(location, "eval", recipe.eval.limit),
        open_source(labelled, "eval", recipe.eval.limit) if labelled else None,
    )
    return replace(data, task=small_task(data.task)) if recipe.rehearse else data


@dataclass(frozen=True)
class Judged:
    """A model of the run: its role in the table, its name, and how to get an `Embedder` when one is needed."""

    role: str
    name: str
    embedder: Any  # Callable[[], Embedder]


def judged_models(recipe: Recipe, teachers: TeacherSet, out: Path) -> list[Judged]:
    """Teachers, student, plain student."""
    from distill.evalset import student_embedder, teacher_embedder
    from students.student import load_student

    def student(folder: Path, name: str) -> "Embedder":
        return student_embedder(load_student(folder / "student"), name)

    models = [
        Judged("teacher", spec.name, lambda index=index: teacher_embedder(teachers.loaded[index]))
        for index, spec in enumerate(teachers.specs)
    ]
    models.append(Judged("student", recipe.student.name, lambda: student(out, recipe.student.name)))
    if recipe.baseline.enabled:
        name = f"{recipe.student.name} (plain)"
        models.append(Judged("plain", name, lambda: student(out / BASELINE, name)))
    return models


def eval_stage(recipe: Recipe, models: list[Judged], out: Path, console: Console) -> None:
    """out/eval/<role or teacher name>.json for every model."""
    from distill.evalset import evaluate_model

    missing = [model for model in models if not eval_file(out, model).exists()]
    if not missing:
        return
    with console.stage("evaluate") as advance:
        data = open_evalset(recipe)
        for done, model in enumerate(missing):
            advance(done, len(missing), model.name)
            embedder = model.embedder()
            result = {"role": model.role, **evaluate_model(embedder, data, recipe.eval.batch_size)}
            result["parameters"] = embedder.parameters
            result["data"] = {"name": data.name, "fingerprint": data.fingerprint}
            if data.rejected:
                result["rejected"] = data.rejected
            if recipe.rehearse:
                result["rehearsal"] = MARK
            atomic.write_json(eval_file(out, model), result)


def eval_file(out: Path, model: Judged) -> Path:
    """Where a model's figures lie."""
    name = model.name if model.role == "teacher" else model.role
    return out / "eval" / f"{name.replace('/', '_').replace(':', '_')}.json"


def export_stage(recipe: Recipe, out: Path, console: Console) -> None:
    """out/export/<target>-<precision>/ for every target, parity proven on the evaluation's own images and captions."""
    from distill.evalset import pixels
    from export.run import export_student
    from students.student import load_student, read_card

    settings = recipe.export
    if not settings.targets:
        return
    with console.stage("export and check parity"):
        student = load_student(out / "student")
        data = open_evalset(recipe)
        images = [(sample.key, sample.image) for sample in data.samples]
        texts = [sample.captions[0].text for sample in data.samples]
        if data.task is not None and len(images) < 2:
            images = [(f"{data.task.name}-{i}", image) for i, image in enumerate(data.task.images)]
            texts = [data.task.templates[0].format(name) for name in data.task.class_names]
        n = settings.parity_samples
        card = read_card(out / "student")
        provenance = {"student": card["name"], "teachers": card["teachers"], "objective": card["objective"]}
        if recipe.rehearse:
            provenance["rehearsal"] = MARK
        export_student(
            out / "student",
            out / "export",
            targets=list(settings.targets),
            pixels=pixels(images[:n], student.image_size),
            tokens=student.tokenize(texts[:n]).numpy().astype("int32"),
            licence=card["licence"],
            provenance=provenance,
            resume=True,
            min_cosine=settings.min_cosine,
            jobs=settings.jobs,
            rehearsal=recipe.rehearse,
            progress=console.say,
        )


def profile_stage(recipe: Recipe, models: list[Judged], out: Path, console: Console) -> None:
    """out/profile.json: the exported files on each device, and eager models side by side on this host."""
    from distill.eager_latency import eager_latency
    from export.device import list_devices
    from export.profile import profile

    settings, target = recipe.profile, out / "profile.json"
    if target.exists() or not settings.enabled:
        return
    with console.stage("profile on this host"):
        folders = sorted(path.parent for path in (out / "export").glob("*/artifact.json"))
        exported = profile(
            folders,
            out / "student",
            devices=asked_devices(settings),
            threads=settings.threads,
            runs=settings.runs,
            warmup_runs=settings.warmup_runs,
            rounds=settings.rounds,
        )
        eager = eager_latency(
            {model.role if model.role != "teacher" else model.name: model.embedder() for model in models},
            threads=settings.threads,
            runs=settings.runs,
            warmup_runs=settings.warmup_runs,
            rounds=settings.rounds,
        )
        host = next(asdict(device) for device in list_devices() if device.kind == "host")
        result: dict[str, Any] = {"host": host, "exported": [asdict(item) for item in exported], "eager": eager}
        if recipe.rehearse:
            result["rehearsal"] = MARK
        atomic.write_json(target, result)


def asked_devices(settings: ProfileRecipe) -> list[str]:
    """The devices that a recipe names, or else every kind there is: those that are absent then say what is missing."""
    from export.device import list_devices

    return list(settings.devices) or [device.name for device in list_devices()]


def check_data(recipe: Recipe) -> None:
    """Open both splits before any work, so that a wrong path or an empty set fails at once."""
    from reinforced_data.open import open_source

    if not is_reinforced(Path(recipe.data)):
        source = open_source(recipe.data, "train", recipe.limit, recipe.reinforce.caption_columns)
        if len(source) < recipe.train.batch_size:
            raise UsageError(
                f"The data {recipe.data!r} has {len(source)} training images, fewer than one batch of "
                f"{recipe.train.batch_size}. Lower it with --set train.batch_size={max(2, len(source) // 2)} or give more images."
            )
    open_source_eval = recipe.eval.data
    if open_source_eval:
        open_source(open_source_eval, "eval", 2)

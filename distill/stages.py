"""The stages that verbs are made of. Each leaves its result in the run folder, written last and atomically, and does
nothing when that result is there: calling all of them again is how a run resumes.
"""

import contextlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.labelling import is_published, label, label_on_cluster, verify_stage
from distill.models import TeacherSet
from distill.processes import WEEK_S, this_place, wait_until
from distill.recipe import ProfileRecipe, Recipe
from distill.rehearsal import MARK, small_task
from distill.training import train_model
from distill.training_data import stored_pairs

if TYPE_CHECKING:
    from distill.evalset import Embedder, EvalSet

REINFORCED = "reinforced"
BASELINE = "plain"


def is_reinforced(path: Path) -> bool:
    """Whether `path` is a reinforced set, finished or not."""
    return (path / "plan.json").is_file() or ((path / "manifest.json").is_file() and any(path.glob("shard-*.arrow")))


def reinforce_stage(
    recipe: Recipe, teachers: TeacherSet, out: Path, console: Console, *, extend: bool = False, wait: bool = True
) -> Path | None:
    """The folder of the reinforced set: recipe.data itself when it is one, else `out`, made or completed.

    Processes of one launcher share the shards. `wait`: for those of other processes; else None is returned when some
    are missing after this process's own, or a batch system has only taken the job.
    """
    if is_reinforced(Path(recipe.data)):
        return Path(recipe.data)
    if extend or not (out / "manifest.json").exists():
        if recipe.cluster.executor == "none":
            label(recipe, teachers, out, console, this_place(), extend=extend)
        else:
            label_on_cluster(recipe, teachers, out, console, extend=extend)
    if not (out / "manifest.json").exists():
        if not wait:
            return None
        console.say("Waiting for the shards of other processes.")
        wait_until((out / "manifest.json").exists, f"the other processes' shards in {str(out)!r}", WEEK_S)
    verify_stage(recipe, teachers, out, console)
    return out


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
        unused |= {"reinforce.sentences": settings.sentences, "caption_columns": settings.caption_columns}
    elif finished:
        plan = atomic.read_json(Path(recipe.data) / "plan.json") if (Path(recipe.data) / "plan.json").exists() else {}
        known = {facts["name"] for facts in plan.get("captioners", ())}
        unused["--captioner"] = not set(recipe.captioners) <= known
    named = [name for name, given in unused.items() if given]
    if named and (published or finished):
        raise UsageError(
            f"{recipe.data!r} is reinforced already and is taken as it is, so {', '.join(named)} would do nothing. Leave "
            "it out; a set made here grows by: distill reinforce --out ITS_RUN --extend."
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


def open_evalset(recipe: Recipe) -> "EvalSet":
    """The evaluation data of a recipe: eval.data, or the eval split of the training data."""
    from distill.evalset import load_evalset
    from reinforced_data.open import open_source

    labelled = recipe.eval.zero_shot
    data = load_evalset(
        open_source(eval_location(recipe), "eval", recipe.eval.limit),
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
    _check_eval(recipe)


def eval_location(recipe: Recipe) -> str:
    """Where the evaluation's samples lie: eval.data, or the training data's own source."""
    location = recipe.eval.data or recipe.data
    if is_reinforced(Path(location)):
        location = atomic.read_json(Path(location) / "plan.json")["source"]["location"]
    return location


def _check_eval(recipe: Recipe) -> None:
    """Raise UsageError when there is plainly nothing to judge models on: no two samples with captions, no classes."""
    from reinforced_data.decode import BadImageError
    from reinforced_data.open import open_source

    captioned = 0
    try:
        source = open_source(eval_location(recipe), "eval", recipe.eval.limit)
    except UsageError as error:
        if recipe.eval.data or not is_reinforced(Path(recipe.data)):
            raise
        raise UsageError(
            f"The student is judged on the source of {recipe.data!r}, which does not serve: {error} Or name other data: "
            "--set eval.data=PLACE."
        ) from None
    for index in range(len(source)):
        with contextlib.suppress(BadImageError):
            captioned += bool(source[index].captions)
        if captioned == 2:
            return
    if not recipe.eval.zero_shot and source.zero_shot() is None:
        raise UsageError(
            f"There is nothing to judge the student on: {source.name!r} has {captioned} evaluation images with captions and "
            "no class labels (captioners write for the training images alone). Name data with captions: --set "
            "eval.data=PLACE."
        )

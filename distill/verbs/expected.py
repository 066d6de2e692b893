"""What a job will take of the disk and of networks, and what its parts say of their terms, counted before anything is spent.

Nothing here loads a model's weights. Left out: how long it takes (`distill.verbs.rehearsed`).
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core import atomic
from distill.recipe import Recipe
from reinforced_data.store.names import MANIFEST_FILE

if TYPE_CHECKING:
    from distill.models import TeacherSet
    from reinforced_data.source import Source

Row = dict[str, Any]
LOOKED_AT = 32  # samples of the data, for how many captions an image has
BYTES = {"int8": 1, "bf16": 2, "fp16": 2, "fp32": 4}  # of a number of an embedding; int8 has a scale a row besides
SCALE_BYTES = 4
# Of an image, a view and a caption, besides pixels, words and embeddings: keys, hashes, sizes, parameters.
ROW_BYTES, VIEW_BYTES, CAPTION_BYTES = 120, 30, 16


@dataclass(frozen=True)
class Data:
    """How much data there is.

    Attributes:
        images: that are trained on. pixels: bytes of an average one's file, which a set holds. captions: real ones, of an
            image. words: bytes of an average caption.
        judged: images that models are judged on.
        labelled: whether the data is a reinforced set already, of which nothing is computed any more.
    """

    images: int
    pixels: float
    captions: float
    words: float
    judged: int
    labelled: bool


def look_at(recipe: Recipe) -> Data:
    """The data of a recipe that is settled. Raises what opening it raises."""
    from distill.stages.budget import training_images
    from distill.stages.evaluate import open_evaluation
    from distill.stages.label import open_data
    from distill.stages.reinforce import is_reinforced

    labelled = is_reinforced(Path(recipe.data))
    pixels, captions, words = (0.0, 0.0, 0.0) if labelled else _averages(open_data(recipe))
    judged = len(open_evaluation(recipe)[0][2])
    return Data(training_images(recipe), pixels, captions, words, judged, labelled)


def _averages(source: "Source") -> tuple[float, float, float]:
    """(bytes of an image, captions an image, bytes of a caption) of a few samples from all over the data."""
    from reinforced_data.pixels.decode import BadImageError

    images, counts, sizes = [], [], []
    for index in sorted({round(place * (len(source) - 1) / LOOKED_AT) for place in range(LOOKED_AT + 1)}):
        with contextlib.suppress(BadImageError):
            sample = source[index]
            images.append(len(sample.image))
            counts.append(len(sample.captions))
            sizes += [len(caption.text.encode()) for caption in sample.captions]
    return sum(images) / max(1, len(images)), sum(counts) / max(1, len(counts)), sum(sizes) / max(1, len(sizes))


def storage(recipe: Recipe, data: Data, teachers: "TeacherSet", arms: int) -> list[Row]:
    """A row per thing that is kept on disk: "what", "bytes" (None = not known before) and "basis"."""
    from distill.stages.label import is_published

    rows: list[Row] = []
    if is_published(recipe.data) and not data.labelled:
        rows.append({"what": "reinforced set", "bytes": None, "basis": "a published set is taken as it is"})
    elif not data.labelled:
        settings = recipe.reinforce
        captions = data.captions + len(recipe.captioners)
        numbers = sum(
            spec.width * BYTES[settings.embed_dtype] + SCALE_BYTES * (settings.embed_dtype == "int8")
            for spec in teachers.specs
        )
        view, caption = VIEW_BYTES + numbers, CAPTION_BYTES + data.words + numbers
        each = ROW_BYTES + data.pixels + settings.views_per_image * view + captions * caption
        basis = (
            f"{data.images:,} images of {data.pixels / 1e3:.3g} kB, {settings.views_per_image} views, {captions:.3g} captions "
            f"each, embeddings in {settings.embed_dtype}"
        )
        rows.append({"what": "reinforced set", "bytes": round(data.images * each), "basis": basis})
    count = parameters(recipe)
    if count is None:
        return [*rows, {"what": "students and checkpoints", "bytes": None, "basis": "its parameters were not counted"}]
    cut = recipe.student.vocabulary is not None and not recipe.student.vocabulary.endswith(".gz")
    most = ", at most: its vocabulary is yet to be cut" if cut else ""
    weights = 4 * count
    kept = recipe.train.keep_checkpoints + recipe.train.keep_best
    models = {"student": arms, "averaged student": int(recipe.train.ema is not None)}
    for what, number in models.items():
        if number:
            half = weights // 2 if recipe.train.half_weights else weights
            rows.append(
                {
                    "what": f"{what}s" if number > 1 else what,
                    "bytes": number * half,
                    "basis": f"{number} x {count / 1e6:.3g} M parameters{most}",
                }
            )
    moments = 3 + int(recipe.train.ema is not None)
    rows.append(
        {"what": "checkpoints", "bytes": arms * (kept + 1) * moments * weights,
         "basis": f"{kept} kept and one being written for each of {arms}, weights and moments"}
    )  # fmt: skip
    return rows


def parameters(recipe: Recipe) -> int | None:
    """How many the student has, counted without its numbers; None where its parts cannot be built so."""
    import torch

    from distill.core.errors import DistillError
    from distill.models import student_spec
    from students.student import build_student

    spec = student_spec(recipe.student)
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build_student(spec, 0).parameters())
    except (DistillError, NotImplementedError, RuntimeError, ValueError):
        return None


def downloads(recipe: Recipe, teachers: "TeacherSet") -> list[Row]:
    """A row per thing of a hub that is needed: "what", "from" and whether it is "here"; nothing is asked of a network."""
    from teachers.load import resolve_teacher
    from teachers.load_captioner import resolve_captioner

    specs = {f"teacher {spec.name}": spec for spec in teachers.specs}
    if recipe.student.inherit_from and recipe.student.inherit != "none":
        specs |= {"what the student inherits": resolve_teacher(recipe.student.inherit_from)}
    rows: list[Row] = []
    for captioner in map(resolve_captioner, recipe.captioners):
        if captioner.loader == "coca":
            specs[f"captioner {captioner.name}"] = resolve_teacher(f"open_clip:{captioner.source}")
        elif captioner.loader == "hf" and not Path(captioner.source).is_dir():
            rows.append(_weights(f"captioner {captioner.name}", captioner.source, "config.json"))
    rows = [_weights(what, spec.hub, spec.file) for what, spec in specs.items() if spec.hub] + rows
    rows = [] if recipe.rehearse else rows  # weights are random then
    places = {"data": recipe.data, "evaluation data": recipe.eval.data, "zero-shot data": recipe.eval.zero_shot}
    rows += [
        {"what": what, "from": place, "here": True}  # it was opened for this plan
        for what, place in places.items()
        if place and place.startswith("hf:")
    ]
    return rows


def _weights(what: str, repo: str, file: str) -> Row:
    from distill.core.clip.folder import twins
    from distill.core.folders.hub import here_already

    found = here_already(repo, file, *twins(file)) if file else None
    return {"what": what, "from": f"{repo}/{file}".rstrip("/"), "here": found is not None}


def terms(recipe: Recipe, teachers: "TeacherSet") -> list[Row]:
    """A row per origin of the student: "origin", "licence" and what it "forbids" ("" = nothing that is known)."""
    from distill.models import CaptionerSet
    from distill.stages.label import open_data
    from distill.stages.reinforce import is_reinforced
    from teachers.load import resolve_teacher

    if is_reinforced(Path(recipe.data)):
        manifest = Path(recipe.data) / MANIFEST_FILE
        summary = atomic.read_json(manifest)["licence_summary"] if manifest.exists() else "unknown: it is not finished"
        rows = [{"origin": f"reinforced set {recipe.data}", "licence": summary, "forbids": forbidden(summary)}]
    else:
        source = open_data(recipe)
        rows = [{"origin": f"data {source.name}", "licence": source.licence, "forbids": forbidden(source.licence)}]
    captioners = CaptionerSet(
        recipe.captioners, recipe.reinforce.captioning, random_weights=recipe.rehearse, seed=recipe.seed
    )
    models = [(f"teacher {spec.name}", spec) for spec in teachers.specs]
    if recipe.student.inherit_from and recipe.student.inherit != "none":
        spec = resolve_teacher(recipe.student.inherit_from)
        models.append((f"inherited weights {spec.name}", spec))
    known: list[tuple[str, Any]] = [*models, *((f"captioner {spec.name}", spec) for spec in captioners.specs)]
    return rows + [
        {"origin": origin, "licence": spec.licence,
         "forbids": forbidden(spec.licence) if spec.commercial else "commercial use"}
        for origin, spec in known
    ]  # fmt: skip


def forbidden(licence: str) -> str:
    """What the words of a licence forbid, as far as they say: commercial use, or nobody knows."""
    if "no commercial use" in licence or "-NC" in licence:
        return "commercial use"
    return "not known: look at its terms before you ship" if "unknown" in licence else ""


def environments(recipe: Recipe) -> list[Row]:
    """A row per export that is asked for: "target", whether it is "ready" here, and the line that makes it so."""
    from export.target import chosen_targets

    targets = chosen_targets(recipe.export.targets, recipe.export.precisions)
    lines = {target.folder: target.missing() for target in targets}
    return [{"target": name, "ready": line is None, "do": line or ""} for name, line in lines.items()]

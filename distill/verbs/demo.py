"""`distill demo`: type a sentence, see the photos; the student beside its teachers, in a page of this computer."""

import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core.errors import DistillError, UsageError
from distill.core.strict import Settings
from distill.run_folder import RunFolder
from distill.verbs.flags import AnyPath, RecipeLike, recipe_of
from reinforced_data.source import opening_once

if TYPE_CHECKING:
    from distill.evaluation.evalset import Embedder
    from distill.evaluation.photo_search import PhotoSearch
    from distill.recipe import Recipe

PHOTOS, HITS, LONGEST = 500, 12, 500


@opening_once()
def demo(
    model: AnyPath,
    recipe: RecipeLike = None,
    *,
    data: AnyPath | None = None,
    limit: int = PHOTOS,
    lan: bool = False,
    port: int | None = None,
    settings: Settings = (),
    console: Console | None = None,
    until: Callable[[str], None] | None = None,
) -> None:
    """Serve a page that searches photos by a sentence, until Ctrl-C.

    Args:
        model: a run (its student beside its teachers), or any CLIP, as of `distill.evaluate`.
        recipe: its data and eval tables are read; None = the run's own.
        data: where the photos lie; None = the evaluation data of the run.
        limit: at most so many photos.
        lan, port: as of `distill.profile`.
        settings: as of `distill.run`.
        until: called with the page's address once it is served; the page is closed when it returns. None = wait for Ctrl-C.

    Raises:
        UsageError: no model is called so, there are no photos, or the port is taken.
    """
    from distill.evaluation.photo_search import PhotoSearch
    from distill.stages.evaluate import open_evaluation
    from distill.stages.exporting.any_model import model_name, run_of
    from export.devices.parts.page_server import PageServer, qr_code

    console, name = console or Console(), model_name(str(model))
    run = run_of(name)
    own = run.read_recipe() if recipe is None and run is not None and run.resolved.exists() else None
    job = recipe_of(own if own is not None else recipe, settings, eval_data=data)
    source = open_evaluation(job.model_copy(update={"eval": job.eval.model_copy(update={"limit": limit})}))[0][2]
    with console.stage("embed the photos") as advance:
        try:
            search = PhotoSearch(_models(name, run, job, console), source, progress=advance)
        except ValueError as error:
            raise UsageError(f"{str(data or job.eval.data or job.data)!r} holds nothing to search: {error}.") from None
    with tempfile.TemporaryDirectory(prefix="distill-demo-") as scratch:
        server = PageServer(_files(search, Path(scratch)), {"/search": _answer(search)}, lan=lan, port=port or 0)
        try:
            console.say(
                f"{len(search.keys)} photos, {', '.join(m.name for m in search.models)}. Open, once: {server.address}"
            )
            if lan:
                console.say(qr_code(server.address))
            (until or _wait)(server.address)
        finally:
            server.close()


def _wait(address: str) -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return


def _models(name: str, run: RunFolder | None, job: "Recipe", console: Console) -> "list[Embedder]":
    """The student first; then those teachers of its run that can be had here, the others are said."""
    from dataclasses import replace

    from distill.evaluation.evalset import student_embedder, teacher_embedder
    from distill.models import TeacherSet
    from students.student import load_student
    from teachers.load import load_teacher, resolve_teacher

    if run is None or not run.student.is_dir():
        return [replace(teacher_embedder(load_teacher(resolve_teacher(name, noun="model"))), name=name)]
    found = [student_embedder(load_student(run.student), f"{job.student.name} (student)")]
    for teacher in job.teachers:
        try:
            (loaded,) = TeacherSet((teacher,), random_weights=False, seed=0).loaded
            found.append(replace(teacher_embedder(loaded), name=f"{teacher} (teacher)"))
        except DistillError as error:
            console.say(f"The teacher {teacher!r} is left out: {error}")
    return found


def _files(search: "PhotoSearch", scratch: Path) -> dict[str, Path | bytes]:
    from export.devices.parts.browser import page_files

    files = page_files("demo", None)
    for index, thumbnail in enumerate(search.thumbnails):
        (scratch / f"{index}.jpg").write_bytes(thumbnail)
        files[f"/photo/{index}.jpg"] = scratch / f"{index}.jpg"
    about = {
        "models": [model.name for model in search.models],
        "photos": len(search.keys),
        "rejected": len(search.rejected),
        "keys": search.keys,
    }
    return files | {"/about.json": json.dumps(about).encode()}


def _answer(search: "PhotoSearch") -> Callable[[Any], Any]:
    from export.devices.parts.page_server import Refusal

    lock = threading.Lock()  # one sentence at a time: models share this process's threads

    def answer(asked: Any) -> Any:
        sentence = str(asked["sentence"]).strip()
        if not sentence or len(sentence) > LONGEST:
            raise Refusal(f"A sentence has 1 to {LONGEST} characters.")
        with lock:
            found = search.search(sentence, HITS)
        return [
            {
                "model": model.name,
                "ms": round(ms, 2),
                "hits": [{"photo": hit.photo, "cosine": round(hit.cosine, 4)} for hit in hits],
            }
            for model, (hits, ms) in zip(search.models, found, strict=True)
        ]

    return answer

"""`distill predict`: what a student, or an exported file, says to photos."""

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import OutputExistsError, UsageError
from distill.core.strict import Settings
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import PredictResult

if TYPE_CHECKING:
    from distill.evaluation.predict import Scorer
    from distill.recipe import Recipe
    from distill.run_folder import RunFolder
    from export.app.classes import Classes

TOP, MOST_TOLD = 5, 10
SHOWN = 0.005  # a probability below it says 0.00 on the terminal
OUT_SUFFIXES = (".csv", ".jsonl")


def predict(
    model: AnyPath,
    photos: OneOrMore,
    recipe: RecipeLike = None,
    *,
    classes: AnyPath | None = None,
    template: OneOrMore = (),
    caption: OneOrMore = (),
    search: OneOrMore = (),
    top: int = TOP,
    out: AnyPath | None = None,
    overwrite: bool = False,
    settings: Settings = (),
    console: Console | None = None,
) -> PredictResult:
    """The most probable labels or captions of photos, or the photos that fit a sentence best.

    Args:
        model: a run, or any CLIP, as of `distill.evaluate`; or a folder of exported files, whose runtime then does the work.
        photos: one or several files and folders; of a folder every picture below it.
        recipe: its eval.device, profile.threads and export.templates are read.
        classes: a text file with a label per line. None = the labels of an exported classifier, or those that a run was judged by.
        template: one or several sentences with {} in them, which a label is put into; none = those of the run, or the recipe's.
        caption: two or more, told apart as labels are.
        search: one or several sentences, each of which finds its `top` photos.
        top: so many labels of a photo, or photos of a sentence, at most.
        out: a .csv or .jsonl file that gets every row.
        overwrite: replace that file.
        settings: as of `distill.run`.

    Raises:
        UsageError: no model or photo is called so, no labels are known, or more than one question is asked.
        OutputExistsError: `out` is there.
        DistillError: weights are missing, or a runtime dies.
    """
    from distill.run_folder import RunFolder
    from distill.stages.exporting.any_model import model_name, run_of
    from distill.stages.exporting.files import has_classifier, is_exported
    from teachers.load import resolve_teacher

    console, name = console or Console(), model_name(str(model))
    captions, sentences = _texts(caption), _texts(search)
    question = _question(classes, captions, sentences, template)
    if top < 1:
        raise UsageError(f"--top {top} asks for nothing. Give at least 1.")
    target = _out_file(out, overwrite)
    job = recipe_of(recipe, settings, classes=classes, template=template)
    files = _files(photos)
    exported = is_exported(Path(name))
    run = run_of(str(Path(name).parent.parent) if exported else name)
    if not exported and run is None and not RunFolder(name).path.is_dir():
        resolve_teacher(name, noun="model")  # is there such a model at all?
    if exported and not question and has_classifier(Path(name)):
        result = _by_classifier(Path(name), files, job, top, console)
    else:
        kept_in = run or RunFolder(name)  # a folder that was pushed has its classes too
        labels = _labels(job, captions, kept_in, own_templates=not template) if question != "search" else None
        with _scorer(name, job, exported, labels) as scorer:
            if labels is None:
                result = _searched(str(model), scorer, files, sentences, top, console)
            else:
                result = _labelled(str(model), scorer, files, labels, top, console)
    _tell_rejected(result.rejected, console)
    if target is not None:
        atomic.write_text(target, _as_text(result, target.suffix))
    return result


def _texts(given: OneOrMore) -> list[str]:
    return [given] if isinstance(given, str) else [str(text) for text in given]  # type: ignore[union-attr]


def _question(classes: AnyPath | None, captions: list[str], sentences: list[str], template: OneOrMore) -> str:
    """What is asked: "classes", "caption" or "search", "" where only photos are named. Raises UsageError for two at once."""
    asked = [name for name, given in (("classes", classes), ("caption", captions), ("search", sentences)) if given]
    if len(asked) > 1:
        raise UsageError(f"--{asked[0]} and --{asked[1]} are two questions. Ask one at a time.")
    if template and asked and asked != ["classes"]:
        raise UsageError(f"--template is what labels are put into; --{asked[0]} takes whole sentences.")
    if len(captions) == 1:
        raise UsageError(
            f"One caption has nothing to be told apart from. Give two or more --caption, or find photos: --search {captions[0]!r}."
        )
    return asked[0] if asked else ""


def _out_file(out: AnyPath | None, overwrite: bool) -> Path | None:
    if out is None:
        return None
    path = Path(out).expanduser()
    if path.suffix not in OUT_SUFFIXES:
        raise UsageError(
            f"--out {str(path)!r} is no table that can be written: let it end in {' or '.join(OUT_SUFFIXES)}."
        )
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{str(path)!r} exists. Replace it with --overwrite, or give another --out.")
    return path


def _files(photos: OneOrMore) -> list[Path]:
    from distill.evaluation.predict import photo_files

    places = [photos] if isinstance(photos, str | Path) else list(photos)  # type: ignore[arg-type]
    if not places:
        raise UsageError("No photo is named. Give files, or a folder with photos.")
    return photo_files([str(place) for place in places])


@dataclass(frozen=True)
class _Labels:
    """What photos are told apart by: names, and the sentences that each is put into."""

    names: Sequence[str]
    templates: Sequence[str]
    classes: "Classes | None" = None


def _labels(job: "Recipe", captions: list[str], run: "RunFolder", *, own_templates: bool) -> _Labels:
    """The captions, the labels of a file, or those that the run was judged by; raises UsageError where there are none."""
    from distill.stages.exporting.classes import own_classes
    from distill.stages.exporting.stage import classes_of
    from export.app.classes import check_templates

    if captions:
        twice = next((text for text in captions if captions.count(text) > 1), None)
        if twice is not None:
            raise UsageError(f"The caption {twice!r} is given twice; equal ones cannot be told apart.")
        return _Labels(captions, ("{}",))
    given = classes_of(job.export)
    own = own_classes(run) if given is None else None
    if given is None and own is None:
        raise UsageError(
            "By what are the photos told apart? Give a file with a label per line (--classes labels.txt), two or more --caption, "
            "or a sentence that finds photos (--search)."
        )
    found = given or own.classes  # type: ignore[union-attr]
    if given is None and not own_templates:
        check_templates(job.export.templates)
        found = replace(found, templates=job.export.templates)
    return _Labels(found.labels, found.templates, found)


@contextlib.contextmanager
def _scorer(name: str, job: "Recipe", exported: bool, labels: _Labels | None) -> "Iterator[Scorer]":
    """The model on its device, or the exported files in their runtime."""
    from distill.evaluation.evalset import teacher_embedder
    from distill.evaluation.predict import Scorer
    from distill.processes import stage_device, this_place
    from distill.stages.exporting.any_model import load_any
    from distill.stages.exporting.files import exported_scorer
    from teachers.open_clip.teacher import OpenClipTeacher

    if exported:
        with exported_scorer(Path(name), job.profile.threads) as scorer:
            yield scorer
        return
    loaded = load_any(name)
    if labels is not None and labels.classes is not None and isinstance(loaded, OpenClipTeacher):
        labels.classes.check_fit(loaded.tokenizer, loaded.context_length)
    loaded = loaded.to(stage_device(job.eval.device, this_place()))
    yield Scorer(teacher_embedder(loaded), loaded.logit_scale, loaded.logit_bias, loaded.spec.kind)


def _by_classifier(folder: Path, files: list[Path], job: "Recipe", top: int, console: Console) -> PredictResult:
    from distill.evaluation.predict import best_labels, read_photos
    from distill.stages.exporting.files import exported_classifier

    with exported_classifier(folder, job.profile.threads) as found, console.stage("look at the photos") as advance:
        how = (found.size, found.resize_mode, found.interpolation, found.resize_to)
        read = read_photos(files, found.answer, *how, progress=advance)
    rows = best_labels(read.files, read.rows, found.labels, top)
    return PredictResult(str(folder), rows, [], read.rejected, "exported classifier")


def _labelled(
    model: str, scorer: "Scorer", files: list[Path], labels: _Labels, top: int, console: Console
) -> PredictResult:
    from distill.evaluation.predict import best_labels, label_scores, read_photos, text_embeddings

    embedder = scorer.model
    text = text_embeddings(embedder, labels.names, labels.templates)
    with console.stage("look at the photos") as advance:
        how = (embedder.image_size, embedder.resize_mode, embedder.interpolation)
        read = read_photos(files, embedder.images, *how, progress=advance)
    rows = best_labels(read.files, label_scores(scorer, read.rows, text), labels.names, top)
    return PredictResult(model, rows, [], read.rejected, scorer.kind)


def _searched(
    model: str, scorer: "Scorer", files: list[Path], sentences: list[str], top: int, console: Console
) -> PredictResult:
    from distill.evaluation.predict import best_photos, read_photos

    embedder = scorer.model
    texts = embedder.texts(sentences)
    with console.stage("look at the photos") as advance:
        how = (embedder.image_size, embedder.resize_mode, embedder.interpolation)
        read = read_photos(files, embedder.images, *how, progress=advance)
    found = [
        {"sentence": sentence, "photos": best_photos(read.files, read.rows, text, top)}
        for sentence, text in zip(sentences, texts, strict=True)
    ]
    return PredictResult(model, [], found, read.rejected, "cosine")


def _tell_rejected(rejected: dict[str, str], console: Console) -> None:
    for file, reason in [*rejected.items()][:MOST_TOLD]:
        console.say(f"Left out: {file}: {reason}.")
    if len(rejected) > MOST_TOLD:
        console.say(f"And {len(rejected) - MOST_TOLD} more photos were left out; --json names them.")


def _as_text(result: PredictResult, suffix: str) -> str:
    """Every row: as JSON lines, or as CSV with a line per photo and label, or per sentence and photo."""
    if suffix == ".jsonl":
        rows: list[dict[str, Any]] = [*result.photos, *result.searches]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if result.searches:
        writer.writerow(("sentence", "photo", "cosine"))
        writer.writerows((s["sentence"], hit["photo"], hit["cosine"]) for s in result.searches for hit in s["photos"])
    else:
        writer.writerow(("photo", "label", "probability"))
        writer.writerows(
            (row["photo"], one["label"], one["probability"]) for row in result.photos for one in row["labels"]
        )
    return lines.getvalue()


def show(result: dict[str, Any]) -> None:
    """Print a result, as of `PredictResult.to_json`: a line per photo, or the photos of each sentence."""
    from distill.reporting.terminal import print_table

    if result["photos"]:
        print_table(("photo", "label", "probability", "then"), [_line(row) for row in result["photos"]])
    for found in result["searches"]:
        rows = [(hit["photo"], f"{hit['cosine']:.3f}") for hit in found["photos"]]
        print_table(("photo", "cosine"), rows, title=f"{found['sentence']}:")


def _line(row: dict[str, Any]) -> tuple[str, str, str, str]:
    first, *others = row["labels"]
    then = ", ".join(f"{one['label']} {one['probability']:.2f}" for one in others if one["probability"] >= SHOWN)
    return row["photo"], first["label"], f"{first['probability']:.2f}", then

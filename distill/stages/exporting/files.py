"""An exported folder as a model that can be judged: its files in their own runtime, its own preprocessing and tokenizer."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core.errors import UsageError

if TYPE_CHECKING:
    from distill.core.arrays import Array
    from distill.evaluation.evalset import Embedder
    from distill.evaluation.predict import Scorer
    from export.artifacts.record import ExportArtifact
    from export.children.timing import Runtime

CLASSIFIER = "classifier"


def is_exported(path: Path) -> bool:
    """Whether a folder is one of exported files."""
    from export.artifacts.folder import ARTIFACT_FILE

    return (path / ARTIFACT_FILE).is_file()


@contextlib.contextmanager
def exported_embedder(folder: Path, threads: int) -> "Iterator[Embedder]":
    """The exported files in `folder` as evaluation sees a model; their runtime has a process of its own until the end.

    Args:
        folder: <target>-<precision>, anywhere.
        threads: of the runtime.

    Raises:
        UsageError: a file is missing or is not the one that was checked, or this machine cannot run it.
        DistillError: its runtime dies.
    """
    from distill.evaluation.evalset import Embedder
    from export.app.reader import tokenizer_of
    from export.artifacts.record import PAIR

    artifacts = _whole(folder)
    first = artifacts[0]
    if not set(PAIR) <= set(first.towers):
        raise UsageError(f"{str(folder)!r} is not judged: it has no text tower, which retrieval and zero-shot need.")
    block, tokenize = first.preprocess, tokenizer_of(folder, first.tokenizer)
    with _running(folder, artifacts, PAIR, threads) as runtime:
        yield Embedder(
            name=str(folder),
            image_size=int(block["size"][0]),
            images=lambda pixels: runtime.embed("image", pixels),
            texts=lambda captions: runtime.embed("text", tokenize(captions)),
            resize_mode=block["open_clip_resize_mode"],
            interpolation=block["interpolation"],
        )


@contextlib.contextmanager
def exported_scorer(folder: Path, threads: int) -> "Iterator[Scorer]":
    """`exported_embedder` with the scale, bias and kind of its record: cosines become probabilities as in an app."""
    from distill.evaluation.predict import Scorer
    from export.artifacts.folder import read_artifacts

    with exported_embedder(folder, threads) as model:
        first = read_artifacts(folder)[0]
        assert first.logit_scale is not None  # of a folder with a text tower
        yield Scorer(model, first.logit_scale, first.logit_bias or 0.0, first.kind)


@dataclass(frozen=True)
class ExportedClassifier:
    """The classifier of an exported folder.

    Attributes:
        labels: in the order of the probabilities.
        size, resize_mode, interpolation, resize_to: how a photo becomes S x S pixels, see `distill.evaluation.evalset.pixels`.
        answer: float32 [b, 3, S, S] in [0, 1] -> probabilities [b, k].
    """

    labels: tuple[str, ...]
    size: int
    resize_mode: str
    interpolation: str
    resize_to: int | None
    answer: "Callable[[Array], Array]"


def has_classifier(folder: Path) -> bool:
    """Whether an exported folder has a classifier whose labels are named."""
    from export.app.classes import LABELS_FILE
    from export.artifacts.folder import read_artifacts

    return (folder / LABELS_FILE).is_file() and CLASSIFIER in read_artifacts(folder)[0].towers


@contextlib.contextmanager
def exported_classifier(folder: Path, threads: int) -> Iterator[ExportedClassifier]:
    """The classifier in `folder`, in its own runtime; raises as `exported_embedder` does."""
    from export.app.classes import LABELS_FILE, Classes

    artifacts = _whole(folder)
    block, labels = artifacts[0].preprocess, Classes.read(folder / LABELS_FILE, ()).labels
    size, cut_from = int(block["size"][0]), block.get("shorter_side")
    how = (size, block["open_clip_resize_mode"], block["interpolation"], cut_from)
    with _running(folder, artifacts, (CLASSIFIER,), threads) as runtime:
        yield ExportedClassifier(labels, *how, lambda pixels: runtime.embed(CLASSIFIER, pixels))


def _whole(folder: Path) -> "list[ExportArtifact]":
    """The entries of a folder's record. Raises UsageError where a file is missing or another one."""
    from export.artifacts.folder import changed_files, read_artifacts

    artifacts = read_artifacts(folder)
    if changed := changed_files(folder, artifacts):
        raise UsageError(f"{str(folder)!r} is not used: {changed[0]} is missing or not the file that was checked.")
    return artifacts


@contextlib.contextmanager
def _running(
    folder: Path, artifacts: "list[ExportArtifact]", towers: "Sequence[str]", threads: int
) -> "Iterator[Runtime]":
    """The runtime of these towers, loaded and ready."""
    from export.children.timing import Runtime
    from export.target import get_target

    first = artifacts[0]
    target = get_target(first.target, first.precision)
    target.require_packages()
    with tempfile.TemporaryDirectory(prefix="distill-eval-") as name:
        job = {
            "runtime": target.folder,
            "source": str(folder),
            "files": {artifact.tower: artifact.file for artifact in artifacts if artifact.tower in towers},
            "threads": threads,
            "options": first.options,
        }
        with contextlib.closing(Runtime(target.folder, job, Path(name), target.python())) as runtime:
            runtime.answer()
            yield runtime

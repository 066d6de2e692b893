"""An exported folder as a model that can be judged: its files in their own runtime, its own preprocessing and tokenizer."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core.errors import UsageError

if TYPE_CHECKING:
    from distill.evaluation.evalset import Embedder


def is_exported(path: Path) -> bool:
    """Whether a folder is one of exported files."""
    from export.artifact import ARTIFACT_FILE

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
    from export.artifact import PAIR, changed_files, read_artifacts
    from export.children.timing import Runtime
    from export.target import get_target

    artifacts = read_artifacts(folder)
    first, changed = artifacts[0], changed_files(folder, artifacts)
    if changed:
        raise UsageError(f"{str(folder)!r} is not judged: {changed[0]} is missing or not the file that was checked.")
    if not set(PAIR) <= set(first.towers):
        raise UsageError(f"{str(folder)!r} is not judged: it has no text tower, which retrieval and zero-shot need.")
    target = get_target(first.target, first.precision)
    target.require_packages()
    block, tokenize = first.preprocess, tokenizer_of(folder, first.tokenizer)
    with tempfile.TemporaryDirectory(prefix="distill-eval-") as name:
        files = {artifact.tower: artifact.file for artifact in artifacts if artifact.tower in PAIR}
        job = {
            "runtime": target.folder,
            "source": str(folder),
            "files": files,
            "threads": threads,
            "options": first.options,
        }
        with contextlib.closing(Runtime(target.folder, job, Path(name), target.python())) as runtime:
            runtime.answer()  # loaded and ready
            yield Embedder(
                name=str(folder),
                image_size=int(block["size"][0]),
                images=lambda pixels: runtime.embed("image", pixels),
                texts=lambda captions: runtime.embed("text", tokenize(captions)),
                resize_mode=block["open_clip_resize_mode"],
                interpolation=block["interpolation"],
            )

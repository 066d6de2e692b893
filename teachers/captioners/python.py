"""`python:MODULE:FUNCTION`: the user's own captioner, a Python function.

It is called as `function(images, seeds)` once per batch: images is a list of b [H, W, 3] uint8 RGB arrays, seeds a list
of b integers. It returns b items, each a caption or a list of captions. To be reproducible it must draw its random
numbers from the seeds. MODULE is importable (the current folder counts). A wrong number of items or a caption that is not
text stops the work with a DistillError that says which. The hash that a manifest records is that of the function's module
file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.errors import DistillError, UsageError
from teachers.captioner import CAPTIONERS, CaptionerLoader, CaptionerSpec, CaptionSettings
from teachers.captioners.parts.own import LICENCE, OwnCaptioner, captions_of

if TYPE_CHECKING:
    from distill.core.arrays import Array


def python_spec(name: str, source: str) -> CaptionerSpec:
    """The facts of "module:function"; nothing is imported. Raises UsageError when it is not of that form."""
    module, colon, function = source.partition(":")
    if not (colon and module and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise UsageError(f"{name!r} names no function: write python:MODULE:FUNCTION, as in python:my_captions:caption.")
    return CaptionerSpec(name, "python", source, LICENCE, False)


class PythonCaptioner(OwnCaptioner):
    """A Python function as a captioner; the module says how it is called."""

    def __init__(self, spec: CaptionerSpec, settings: CaptionSettings) -> None:
        self.spec = spec
        self.settings = settings
        self._function, self.weights_sha256 = _function(spec)

    @override
    def caption(self, images: list[Array], seeds: list[int]) -> list[list[str]]:
        if not images:
            return []
        try:
            answers = self._function(list(images), [self.settings.image_seed(seed) for seed in seeds])
        except DistillError:
            raise
        except Exception as error:
            raise self._broken(f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        if not isinstance(answers, (list, tuple)):
            raise self._broken(f"returned a {type(answers).__name__}, not a list with one item per image")
        if len(answers) != len(images):
            raise self._broken(f"returned {len(answers)} items for {len(images)} images")
        return [captions_of(answer, n, self.settings, self._broken) for n, answer in enumerate(answers)]

    def _broken(self, what: str) -> DistillError:
        return DistillError(f"The captioner {self.spec.name!r} {what}. docs/captioners.md says what is expected of it.")


def _function(spec: CaptionerSpec) -> tuple[Callable[[list[Array], list[int]], Any], str]:
    """The function and the hash of its module's file and its name."""
    module_name, _, name = spec.source.partition(":")
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"The captioner {spec.name!r} cannot be imported: there is no module {error.name!r} (looked in the current "
                "folder and the installed packages)."
            ) from None
        except Exception as error:
            raise DistillError(
                f"The captioner {spec.name!r} cannot be imported: {type(error).__name__}: {error}. Mend {module_name}."
            ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(
            f"The module {module_name!r} has no function {name!r}, which captioner {spec.name!r} asks for."
        )
    file = getattr(module, "__file__", None)
    content = Path(file).read_bytes() if file and Path(file).is_file() else b""
    return function, hashlib.sha256(f"{name}:".encode() + content).hexdigest()


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """The current folder counts as a place of modules inside, as it does for `python -m`."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(here)


def _load(spec: CaptionerSpec, settings: CaptionSettings, random_weights: bool, seed: int) -> PythonCaptioner:
    """A rehearsal calls the function as it is."""
    return PythonCaptioner(spec, settings)


CAPTIONERS.register("python")(CaptionerLoader(_load, spec_of_name=python_spec, forms=("python:MODULE:FUNCTION",)))

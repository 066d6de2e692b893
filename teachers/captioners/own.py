"""The user's own captioner: a Python function, or a command in any language.

`python:MODULE:FUNCTION`. The function is called as `function(images, seeds)` once per batch: images is a list of b
[H, W, 3] uint8 RGB arrays, seeds a list of b integers. It returns b items, each a caption or a list of captions. To be
reproducible it must draw its random numbers from the seeds. MODULE is importable (the current folder counts).

`command:COMMAND LINE` (split as a shell splits it; no shell is started). One process per batch. It reads one JSON object
per line from stdin, in order, until end of file:

    {"image": "/tmp/.../000000.png", "seed": 123, "captions": 5, "max_tokens": 76, "min_tokens": 5, "temperature": 1.0,
     "top_p": 0.9, "beams": 1}

and writes one JSON value per image to stdout, in the same order, one per line, UTF-8: a caption ("a cat"), a list of
captions (["a cat", "a pet"]), or an object with the key "captions". An empty list says that there is nothing to say.
stderr is free; its end is shown when something goes wrong. The pictures are deleted when the process ends.

More captions than were asked for are cut. A non-zero exit, a time-out, text that is not UTF-8 or not JSON, a wrong number
of answers or a caption that is not text stops the work with a DistillError that says which. Neither is confined: what the
command or function does is the user's business. The hash that a manifest records is that of the files named on the
command line (programs found through PATH count by name alone), or of the function's module file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from distill.core.errors import DistillError, UsageError
from teachers.captioner import CAPTIONERS, Captioner, CaptionerLoader, CaptionerSpec, CaptionSettings

if TYPE_CHECKING:
    from distill.core.arrays import Array

Own = TypeVar("Own", bound="_OwnCaptioner")
TIMEOUT_S = 600.0  # of one batch
_LICENCE = "unknown: the user's own captioner"


def python_spec(name: str, source: str) -> CaptionerSpec:
    """The facts of "module:function"; nothing is imported. Raises UsageError when it is not of that form."""
    module, colon, function = source.partition(":")
    if not (colon and module and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise UsageError(f"{name!r} names no function: write python:MODULE:FUNCTION, as in python:my_captions:caption.")
    return CaptionerSpec(name, "python", source, _LICENCE, False)


def command_spec(name: str, source: str) -> CaptionerSpec:
    """The facts of a command line. Raises UsageError when it is empty or its program is not there."""
    _arguments(name, source)
    return CaptionerSpec(name, "command", source, _LICENCE, False)


def _arguments(name: str, source: str) -> list[str]:
    """The command line split, its program made absolute where it is a path."""
    import shutil

    try:
        arguments = shlex.split(source)
    except ValueError as error:
        raise UsageError(f"{name!r} is not a command line ({error}). Write command:./caption.sh.") from None
    if not arguments:
        raise UsageError(f"{name!r} names no command. Write command:./caption.sh.")
    program = arguments[0]
    found = shutil.which(program)
    if found is None:
        state = "is not executable (chmod +x it)" if Path(program).is_file() else "is not there"
        raise UsageError(f"The command of captioner {name!r} cannot be run: {program!r} {state}.")
    return [str(Path(found).absolute()) if os.sep in program else program, *arguments[1:]]


class _OwnCaptioner(Captioner):
    """What commands and functions share: no weights that could be moved."""

    spec: CaptionerSpec
    settings: CaptionSettings
    weights_sha256: str
    device = "cpu"  # what the user's own code does with a GPU is not known here

    @override
    def to(self: Own, device: Any) -> Own:
        return self

    @override
    def describe(self) -> dict[str, object]:
        return {
            "spec": asdict(self.spec),
            "decode": self.settings.model_dump(),
            "weights_sha256": self.weights_sha256,
            "rehearsal": False,
            "preprocess": "whole upright RGB images",
            "tokenizer": "the captioner's own",
        }


class CommandCaptioner(_OwnCaptioner):
    """A command line as a captioner; the module says what it reads and writes.

    Args:
        spec, settings: its facts, and what it is asked for.
        timeout_s: seconds that one batch may take.
    """

    def __init__(self, spec: CaptionerSpec, settings: CaptionSettings, *, timeout_s: float = TIMEOUT_S) -> None:
        self.spec = spec
        self.settings = settings
        self.timeout_s = timeout_s
        self._arguments = _arguments(spec.name, spec.source)
        self.weights_sha256 = _command_sha256(shlex.split(spec.source))

    @override
    def caption(self, images: list[Array], seeds: list[int]) -> list[list[str]]:
        from PIL import Image

        if not images:
            return []
        options = self.settings.model_dump(exclude={"seed"})
        with tempfile.TemporaryDirectory(prefix="distill-captions-") as folder:
            lines = []
            for number, (image, seed) in enumerate(zip(images, seeds, strict=True)):
                path = Path(folder) / f"{number:06d}.png"
                Image.fromarray(image).save(path, compress_level=1)
                lines.append(json.dumps({"image": str(path), "seed": _seed(self.settings, seed), **options}))
            output = self._run("".join(line + "\n" for line in lines).encode())
        try:
            answers = output.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise self._broken(f"wrote bytes that are not UTF-8 (at byte {error.start})") from None
        answers = [line for line in answers if line.strip()]
        if len(answers) != len(images):
            raise self._broken(
                f"answered {len(answers)} lines for {len(images)} images; one JSON value per image is due"
            )
        return [_captions(self._parse(line, n), n, self.settings, self._broken) for n, line in enumerate(answers)]

    def _parse(self, line: str, number: int) -> Any:
        try:
            return json.loads(line)
        except ValueError:
            raise self._broken(f"answered for image {number} what is not JSON: {line[:120]!r}") from None

    def _run(self, given: bytes) -> bytes:
        try:
            process = subprocess.Popen(
                self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise self._broken(f"cannot be started ({error.strerror})") from None
        try:
            output, complaints = process.communicate(given, timeout=self.timeout_s)
        except subprocess.TimeoutExpired:
            raise self._broken(f"took longer than {self.timeout_s:g} s for one batch and was stopped") from None
        finally:
            _end(process)
        if process.returncode != 0:
            said = " ".join(complaints.decode("utf-8", "replace").split())[-400:]
            how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
            raise self._broken(f"failed with {how}; it said: {said or 'nothing'}")
        return output

    def _broken(self, what: str) -> DistillError:
        return DistillError(
            f"The captioner {self.spec.name!r} {what}. Try it by hand on one picture; docs/captioners.md has the protocol."
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the process and all that it started, where any is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


class PythonCaptioner(_OwnCaptioner):
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
            answers = self._function(list(images), [_seed(self.settings, seed) for seed in seeds])
        except DistillError:
            raise
        except Exception as error:
            raise self._broken(f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        if not isinstance(answers, (list, tuple)):
            raise self._broken(f"returned a {type(answers).__name__}, not a list with one item per image")
        if len(answers) != len(images):
            raise self._broken(f"returned {len(answers)} items for {len(images)} images")
        return [_captions(answer, n, self.settings, self._broken) for n, answer in enumerate(answers)]

    def _broken(self, what: str) -> DistillError:
        return DistillError(f"The captioner {self.spec.name!r} {what}. docs/captioners.md says what is expected of it.")


def _captions(answer: Any, number: int, settings: CaptionSettings, broken: Callable[[str], DistillError]) -> list[str]:
    if isinstance(answer, dict):
        answer = answer.get("captions", answer)
    if isinstance(answer, str):
        answer = [answer]
    if not isinstance(answer, (list, tuple)) or not all(isinstance(text, str) for text in answer):
        raise broken(f"gave for image {number} neither a caption nor a list of captions: {str(answer)[:120]!r}")
    return [str(text) for text in answer[: settings.captions]]


def _seed(settings: CaptionSettings, seed: int) -> int:
    from teachers.captioners.parts.decoding import image_seed

    return image_seed(settings.seed, seed)


def _command_sha256(arguments: list[str]) -> str:
    """Of the arguments and the contents of those that are files; a program found through PATH counts by its name."""
    digest = hashlib.sha256()
    for argument in arguments:
        path = Path(argument)
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{len(argument.encode())}:{argument}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def _function(spec: CaptionerSpec) -> tuple[Callable[[list[Array], list[int]], Any], str]:
    """The function and the hash of its module's file and its name."""
    import importlib

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
def _current_folder_importable() -> Any:
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


def _load_command(spec: CaptionerSpec, settings: CaptionSettings, random_weights: bool, seed: int) -> CommandCaptioner:
    """A command line; a rehearsal runs it as it is."""
    return CommandCaptioner(spec, settings)


def _load_python(spec: CaptionerSpec, settings: CaptionSettings, random_weights: bool, seed: int) -> PythonCaptioner:
    """A Python function; a rehearsal calls it as it is."""
    return PythonCaptioner(spec, settings)


CAPTIONERS.register("command")(CaptionerLoader(_load_command, spec_of_name=command_spec, forms=("command:COMMAND",)))
CAPTIONERS.register("python")(
    CaptionerLoader(_load_python, spec_of_name=python_spec, forms=("python:MODULE:FUNCTION",))
)

"""`command:COMMAND LINE`: the user's own captioner, a program in any language.

The command line is split as a shell splits it; no shell is started. One process per batch. It reads one JSON object per
line from stdin, in order, until end of file:

    {"image": "/tmp/.../000000.png", "seed": 123, "captions": 5, "max_tokens": 76, "min_tokens": 5, "temperature": 1.0,
     "top_p": 0.9, "beams": 1}

and writes one JSON value per image to stdout, in the same order, one per line, UTF-8: a caption ("a cat"), a list of
captions (["a cat", "a pet"]), or an object with the key "captions". An empty list says that there is nothing to say.
stderr is free; its end is shown when something goes wrong. The pictures are deleted when the process ends.

A non-zero exit, a time-out, text that is not UTF-8 or not JSON, a wrong number of answers or a caption that is not text
stops the work with a DistillError that says which. The hash that a manifest records is that of the files named on the
command line; programs found through PATH count by name alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.errors import DistillError, UsageError
from teachers.captioner import CAPTIONERS, CaptionerLoader, CaptionerSpec, CaptionSettings
from teachers.captioners.parts.own import LICENCE, OwnCaptioner, captions_of
from teachers.spec import absolute_path

if TYPE_CHECKING:
    from distill.core.arrays import Array

TIMEOUT_S = 600.0  # of one batch


def command_spec(name: str, source: str) -> CaptionerSpec:
    """The facts of a command line. Raises UsageError when it is empty or its program is not there."""
    _arguments(name, source)
    return CaptionerSpec(name, "command", source, LICENCE, False)


def _arguments(name: str, source: str) -> list[str]:
    """The command line split, its program made absolute where it is a path."""
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


class CommandCaptioner(OwnCaptioner):
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
                lines.append(json.dumps({"image": str(path), "seed": self.settings.image_seed(seed), **options}))
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
        return [captions_of(self._parse(line, n), n, self.settings, self._broken) for n, line in enumerate(answers)]

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


def _absolute(source: str) -> str:
    """The command line with its words absolute that are written as paths and are there."""
    try:
        words = shlex.split(source)
    except ValueError:
        return source  # refused where it is resolved
    moved = [absolute_path(word) if os.sep in word or word.startswith("~") else word for word in words]
    return source if moved == words else shlex.join(moved)


def _command_sha256(arguments: list[str]) -> str:
    """Of the arguments and the contents of those that are files; a program found through PATH counts by its name."""
    digest = hashlib.sha256()
    for argument in arguments:
        path = Path(argument)
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{len(argument.encode())}:{argument}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def _load(spec: CaptionerSpec, settings: CaptionSettings, random_weights: bool, seed: int) -> CommandCaptioner:
    """A rehearsal runs the command as it is."""
    return CommandCaptioner(spec, settings)


CAPTIONERS.register("command")(
    CaptionerLoader(_load, spec_of_name=command_spec, absolute=_absolute, forms=("command:COMMAND",))
)

"""What an export target is, and their registry. Importable without torch: a target imports its packages when used."""

import importlib.metadata
import importlib.util
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from distill.core.errors import DistillError
from distill.core.registry import Registry
from export.artifact import Tower

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array

INPUT_NAMES: dict[str, str] = {"image": "pixels", "text": "tokens"}
OUTPUT_NAMES: dict[str, str] = {"image": "image_embedding", "text": "text_embedding"}

# One input with batch 1 (pixels [1, 3, S, S] float32 or tokens [1, L] int32) -> [1, D] float32.
Runner = Callable[["Array"], "Array"]


class NotCheckedError(DistillError):
    """This machine cannot run the exported file, not even by a reference; the message says why."""


class Target(ABC):
    """One file format with its precision.

    Attributes:
        name: public name, "coreml".
        precision: of the weights and activations in the file, "fp16" or "fp32".
        suffix: of the exported file or package, with the dot.
        requires: module -> what to pip install for it.
        runtime: what runs the file on a phone, for reports.
        package: the installed package whose version a latency on this machine belongs to.
    """

    name: ClassVar[str]
    precision: ClassVar[Literal["fp16", "fp32"]]
    suffix: ClassVar[str]
    requires: ClassVar[dict[str, str]]
    runtime: ClassVar[str]
    package: ClassVar[str]

    @abstractmethod
    def convert(self, program: "ExportedProgram", tower: Tower, path: Path) -> None:
        """Write `program` (batch 1, fixed shapes) to `path`, the same bytes for the same program."""

    @abstractmethod
    def load(self, path: Path, threads: int = 1) -> Runner:
        """The exported file as a callable. Raises NotCheckedError when this machine cannot run it."""

    @property
    @abstractmethod
    def checked_by(self) -> str:
        """How `load` runs the file on this machine, in words for the report."""

    @property
    def no_latency(self) -> str | None:
        """Why timing `load`'s callable on this machine would say nothing; None where it says something."""
        return None

    @property
    def folder(self) -> str:
        """Name of the artifact's folder, "<target>-<precision>"."""
        return f"{self.name}-{self.precision}"

    def require_packages(self) -> None:
        """Raise DistillError, with the line that installs them, when packages are missing."""
        line = self.missing()
        if line:
            raise DistillError(f"The target {self.name!r} needs packages that are not installed. Run: {line}")

    def versions(self) -> dict[str, str]:
        """Package -> version of what makes and runs the file; with another version, a kept file is not the same any more."""
        names = ["torch", "timm", "open_clip_torch", *(wanted.split(">")[0] for wanted in self.requires.values())]
        return {name: importlib.metadata.version(name) for name in names} | {"python": platform.python_version()}

    def missing(self) -> str | None:
        """The line that installs the packages that are not there, or None."""
        absent = [wanted for module, wanted in self.requires.items() if importlib.util.find_spec(module) is None]
        return None if not absent else "pip install " + " ".join(f"'{wanted}'" for wanted in absent)


TARGETS: Registry[Target] = Registry("export target", ("export.targets",))
ALIASES = {
    "executorch": "executorch-xnnpack",
    "xnnpack": "executorch-xnnpack",
    "core-ml": "coreml",
    "onnxruntime": "onnx",
}


def get_target(name: str) -> Target:
    """The target called `name` or by one of its aliases. Raises UsageError with the nearest known name."""
    return TARGETS.get(ALIASES.get(name, name))

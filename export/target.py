"""What an export target is, and their registry. Importable without torch: packages come in when used."""

import copy
import importlib.metadata
import importlib.util
import platform
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from distill.core.errors import DistillError, UsageError
from distill.core.packages.environment import Environment
from distill.core.registry import Registry
from export.app.form import Form, Layout
from export.artifacts.folder import tower_file
from export.artifacts.precision import AUTO, INT8, PRECISIONS, Precision, PrecisionName
from export.artifacts.record import Operations, Tower

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array
    from export.app.licence import Notice
    from export.settings import ExportSettings

INPUT_NAMES: dict[str, str] = {"image": "pixels", "text": "tokens", "classifier": "pixels"}
OUTPUT_NAMES: dict[str, str] = {"image": "image_embedding", "text": "text_embedding", "classifier": "probabilities"}

# Inputs as a file takes them (see `export.app.form.Form`: pixels, or int32 tokens [b, L]) -> [b, D] float32; D: labels, of a
# classifier.
Runner = Callable[["Array"], "Array"]


class NotCheckedError(DistillError):
    """This machine cannot run the exported file, not even by a reference; the message says why."""


class Target(ABC):
    """One file format at one of its precisions.

    Attributes:
        name: public name, "coreml".
        precisions: those that it can make, the usual one first; a registered target has that one, `at` gives the others.
        int8: which of them a caller means who says "int8"; None where none comes near.
        mixes: which of them can leave chosen layers in floats (the option "kept": tower -> names of weights).
        precision: of this one's files.
        options: what a caller chose, as plain values; see `configured`.
        auto: whether the precision is to be found by measuring; `precision` is then the usual one.
        suffix: of the exported file or package, with the dot.
        requires: module -> what to pip install for it.
        runtime: what runs the file on a phone, for reports.
        package: the installed package whose version a latency on this machine belongs to.
        environment: where the packages are that `convert` and `load` import, if that is not this Python; `requires` is
            then empty.
        eight_bit: the layout in which its files take pixels as bytes.
        check_seconds: how long parity may run each tower's file here, where its runtime is slow; at least one input is run.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[PrecisionName, ...]]
    int8: ClassVar[PrecisionName | None] = None
    mixes: ClassVar[tuple[PrecisionName, ...]] = ()
    suffix: ClassVar[str]
    requires: ClassVar[dict[str, str]]
    runtime: ClassVar[str]
    package: ClassVar[str]
    environment: ClassVar[Environment | None] = None
    eight_bit: ClassVar[Layout] = "NCHW"
    check_seconds: ClassVar[float | None] = None

    def __init__(self) -> None:
        self.precision: Precision = PRECISIONS[self.precisions[0]]
        self.auto = False
        self.options: dict[str, Any] = {}

    def at(self, precision: str) -> Self:
        """The same format at another precision ("int8" is the target's own, "auto" any). Raises UsageError where it has none."""
        if precision == AUTO:
            found = copy.copy(self)
            found.auto = True
            return found
        name = self.int8 if precision == INT8 else precision
        if name not in self.precisions:
            raise UsageError(
                f"The target {self.name!r} has no precision {precision!r}; it has: {', '.join(self.precisions)}."
            )
        other = copy.copy(self)
        other.precision, other.auto = PRECISIONS[name], False
        return other

    def configured(self, settings: "ExportSettings") -> Self:
        """The same format with what settings choose; the same object where that is what it does anyway.

        Raises UsageError for an input that its files cannot take.
        """
        chosen = self.own_options(settings)
        if settings.input == "uint8":
            if reason := self.no_eight_bit:
                raise UsageError(f"{self.folder} cannot take pixels as bytes (export.input): {reason}.")
            chosen["input"] = "uint8"
        if settings.batch > 1:
            if self.eight_bit == "picture" and settings.input == "uint8":
                raise UsageError(
                    f"{self.name} takes a picture at a call, not {settings.batch} (export.batch). Leave export.batch away, or "
                    'take export.input = "float".'
                )
            chosen["batch"] = settings.batch
        return self.with_options(chosen) if chosen else self

    def own_options(self, settings: "ExportSettings") -> dict[str, Any]:
        """What settings choose for this format alone, without what is usual."""
        return {}

    @property
    def no_eight_bit(self) -> str:
        """Why its files at this precision cannot take pixels as bytes; "" where they can."""
        return ""

    @property
    def form(self) -> Form:
        """How its files take their inputs."""
        batch = int(self.options.get("batch", 1))
        return Form(batch, "uint8", self.eight_bit) if self.options.get("input") == "uint8" else Form(batch)

    def keeping(self, kept: "dict[Tower, list[str]]") -> Self:
        """The same format with chosen layers in floats (tower -> names of weights). Raises UsageError where it cannot."""
        if self.precision.name not in self.mixes:
            able = ", ".join(self.mixes) or "none of its precisions"
            raise UsageError(f"{self.folder} cannot keep single layers in floats; {self.name!r} can in {able}.")
        whole = dict(kept)
        if "image" in kept:  # which a classifier has inside
            whole["classifier"] = [f"image.{name}" for name in kept["image"]]
        return self.with_options({**self.options, "kept": whole})

    def with_options(self, options: dict[str, Any]) -> Self:
        """The same format with these options."""
        other = copy.copy(self)
        other.options = options
        return other

    @abstractmethod
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        """Write a tower to a file, the same bytes for the same program.

        Args:
            program: the tower in the form's graph, with fixed shapes, float32 inside.
            path: of the file or package.
            calibration: [n, ...] real inputs of the tower in that form, not those that parity is measured on; given where the
                precision is calibrated.

        Returns what the file is made of.
        """

    def sign(self, path: Path, tower: Tower, notice: "Notice") -> None:  # noqa: B027 - not every format has a place for it
        """Write the terms and the origin into a file that `convert` has written; nothing where the format has no metadata."""

    def file_of(self, tower: Tower) -> str:
        """The name of the file that holds a tower."""
        return tower_file(tower, self.suffix)

    def combine(self, folder: Path, towers: Iterable[Tower]) -> None:  # noqa: B027 - most formats hold one graph a file
        """Make one file of those in `folder` where `file_of` says so."""

    def of(self, tower: Tower) -> Self:
        """What loads a tower out of a file that holds several; the same object where a file holds one."""
        return self

    @abstractmethod
    def load(self, path: Path, threads: int = 1) -> Runner:
        """The exported file as a callable. Raises NotCheckedError when this machine cannot run it."""

    def other_orders(self, path: Path) -> list[Runner]:
        """The same file with sums added in other orders than `load`'s; empty where nothing here can do so."""
        return []

    def first_divergence(self, path: Path, value: "Array") -> str:
        """Where, on one input, the file's numbers first leave those of the same graph in fp32; "" where that cannot be told."""
        return ""

    @property
    @abstractmethod
    def checked_by(self) -> str:
        """How `load` runs the file on this machine, in words for the report."""

    @property
    def no_latency(self) -> str | None:
        """Why timing `load`'s callable on this machine would say nothing, or cannot be done; None where it says something."""
        try:
            self.python()
        except DistillError as absent:
            return str(absent)
        return None

    @property
    def runs_on(self) -> str:
        """What the file needs at least, in words."""
        return self.runtime

    @property
    def folder(self) -> str:
        """Name of the artifact's folder, "<target>-<precision>"; "<target>-auto" until that is found."""
        return f"{self.name}-{AUTO if self.auto else self.precision.name}"

    @property
    def learns(self) -> bool:
        """Whether real inputs to learn scales from are needed."""
        names = self.precisions if self.auto else (self.precision.name,)
        return any(PRECISIONS[name].calibrated for name in names)

    def require_packages(self) -> None:
        """Raise DistillError, with the line that installs them, when packages are missing."""
        if self.environment is not None:
            self.environment.find()
        elif line := self.missing():
            raise DistillError(f"The target {self.name!r} needs packages that are not installed. Run: {line}")

    def python(self) -> Path | None:
        """The interpreter that converts and runs the file; None = this one. Raises what `require_packages` raises."""
        return None if self.environment is None else self.environment.find().python

    def versions(self) -> dict[str, str]:
        """Package -> version of what makes and runs the file; with another version, a kept file is not the same any more."""
        names = ["torch", "timm", "open_clip_torch", *map(package_name, self.requires.values())]
        here = {name: importlib.metadata.version(name) for name in names}
        if self.environment is None:
            return here | {"python": platform.python_version()}
        there = self.environment.find()
        wanted = ["torch", self.package, *map(package_name, self.environment.requirements)]
        found = {name: there.versions[name] for name in wanted if name in there.versions}
        return here | found | {"python": there.python_version}

    def package_version(self) -> str:
        """The version of `package`. Raises what `require_packages` raises."""
        if self.environment is not None:
            return self.environment.find().versions[self.package]
        return importlib.metadata.version(self.package)

    def missing(self) -> str | None:
        """The line that installs what is not there, or None."""
        if self.environment is not None:
            try:
                self.environment.find()
            except DistillError:
                return self.environment.command
            return None
        absent = [wanted for module, wanted in self.requires.items() if importlib.util.find_spec(module) is None]
        return None if not absent else "pip install " + " ".join(f"'{wanted}'" for wanted in absent)


def package_name(requirement: str) -> str:
    """The package in "package>=1,<2"."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


TARGETS: Registry[Target] = Registry("export target", ("export.targets",))
ALIASES = {
    "executorch": "executorch-xnnpack",
    "xnnpack": "executorch-xnnpack",
    "core-ml": "coreml",
    "onnxruntime": "onnx",
    "tflite": "litert",
    "qnn": "onnx-qnn",
    "hexagon": "onnx-qnn",
    "core-ai": "coreai",
}


def get_target(name: str, precision: str | None = None) -> Target:
    """A target by its name, by one of its aliases, or by "<target>-<precision>", the name of its folder.

    Args:
        name: "coreml", "executorch", "onnx-w8", "coreml-int8".
        precision: wanted of a name that says none; None = the target's usual one.

    Raises UsageError with the nearest known name, or with the precisions that the target has.
    """
    if (known := ALIASES.get(name, name)) in TARGETS:
        target = TARGETS.get(known)
        return target if precision is None else target.at(precision)
    for ending in sorted((*PRECISIONS, INT8, AUTO), key=len, reverse=True):  # "-w8a8-dynamic" before "-w8a8"
        stem = name.removesuffix(f"-{ending}")
        if stem != name and (known := ALIASES.get(stem, stem)) in TARGETS:
            return TARGETS.get(known).at(ending)
    return TARGETS.get(name)  # which refuses it, with the nearest known name


def chosen_targets(names: Iterable[str], precisions: Iterable[str] = ()) -> list[Target]:
    """Every target at every precision that is asked for, each once, in the order of the names.

    Args:
        names: as of `get_target`; one that says its precision is taken at that alone.
        precisions: for the names that say none; empty = the usual one of each.

    Raises what `get_target` raises.
    """
    wanted: list[str | None] = list(precisions) or [None]
    found: dict[str, Target] = {}
    for name in names:
        says_its_own = ALIASES.get(name, name) not in TARGETS
        for precision in [None] if says_its_own else wanted:
            target = get_target(name, precision)
            found.setdefault(target.folder, target)
    return list(found.values())

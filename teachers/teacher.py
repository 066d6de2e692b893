"""What every teacher can do, and the registry of the loaders that build teachers. Importable without torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill.core.clip.weights import ClipWeights
from distill.core.registry import Registry
from teachers.spec import TeacherSpec

if TYPE_CHECKING:
    from torch import Tensor


class Teacher(Protocol):
    """A frozen image-text model; it resizes, normalises and tokenises for itself.

    Attributes:
        spec: its facts; `spec.logit_scale` may be None, then `logit_scale` holds the checkpoint's own.
        logit_scale: float, already exponentiated.
        logit_bias: float, 0.0 for softmax teachers.
        weights_sha256: hash of the weights in use ("random" in a rehearsal).
        resize_mode: how a whole image becomes the square that the model expects: "shortest" (centre crop), "squash" or
            "longest", in open_clip's words.
        interpolation: "bicubic" or "bilinear".
    """

    spec: TeacherSpec
    logit_scale: float
    logit_bias: float
    weights_sha256: str
    resize_mode: str
    interpolation: str

    @property
    def device(self) -> Any:
        """The torch device on which the weights are; inputs may be on any."""
        ...

    @property
    def parameters(self) -> dict[str, int] | None:
        """How many parameters its image tower, text blocks and token embedding have; None where it has no such parts."""
        ...

    def to(self, device: Any) -> "Teacher":
        """The same teacher, its weights moved to a torch device."""
        ...

    def encode_image(self, pixels: "Tensor") -> "Tensor":
        """[b, 3, H, W] RGB in [0, 1], any H and W -> [b, D] float32, unit length, no gradient."""
        ...

    def encode_text(self, captions: list[str]) -> "Tensor":
        """b captions -> [b, D] float32, unit length, no gradient."""
        ...

    def inheritable(self) -> ClipWeights:
        """Its weights, for a student to start from. Raises UsageError that says why where no student can."""
        ...

    def describe(self) -> dict[str, object]:
        """What a manifest records: spec, weights hash, preprocessing, scale, bias, tokenizer."""
        ...


@dataclass(frozen=True)
class TeacherLoader:
    """One way to build teachers, and how users name the teachers that it builds.

    Attributes:
        load: (spec, random_weights, seed of those) -> the teacher, frozen, on the CPU.
        spec_of_name: for names "KEY:SOURCE", where KEY is the loader's own: (whole name, SOURCE) -> its facts. None when
            no name is of that form. It reads no weights and never reaches the network.
        spec_of_folder: a folder -> its facts, or None when the folder is no teacher of this kind. None when no folder is.
        absolute: SOURCE with the paths in it absolute, so that the name means the same from every folder.
        towers: builds the frozen towers that heads are aligned over, with their own weights. None where teachers of this
            kind have no such towers.
        holds: what marks a folder of this kind, for messages: "heads.safetensors (aligned heads)".
    """

    load: Callable[[TeacherSpec, bool, int], Teacher]
    spec_of_name: Callable[[str, str], TeacherSpec] | None = None
    spec_of_folder: Callable[[Path], TeacherSpec | None] | None = None
    absolute: Callable[[str], str] = str
    towers: Callable[[], Any] | None = None
    holds: str = ""


# `TeacherSpec.loader` -> the loader; implementations in teachers/loaders/
TEACHER_LOADERS: Registry[TeacherLoader] = Registry("loader of teachers", ("teachers.loaders",))

"""Names of checkpoint files whose architecture is a student's: "student:NAME@FILE" wherever a teacher or a model is named, and
"timm:TOWER@FILE" for an image tower to inherit from.

    distill export student:mobileclip-s0@mobileclip_s0.pt
    distill train ... --set student.inherit=copy --set student.inherit_from=student:tinyclip-vit8m16@TinyCLIP-ViT-8M.pt

Left out: reading the files (`students.checkpoints`).
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.atomic import sha256_file
from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.spec import STUDENTS
from teachers.spec import TeacherSpec, absolute_checkpoint
from teachers.teacher import TEACHER_LOADERS, Teacher, TeacherLoader

if TYPE_CHECKING:
    from teachers.open_clip.teacher import OpenClipTeacher

KEY, TIMM = "student", "timm"
# What published weights of a family come under, for names that begin so.
TERMS = {
    "mobileclip": ("apple-amlr (Apple's weights: research only)", False),
    "mci": ("apple-amlr (Apple's weights: research only)", False),
    "tinyclip": ("MIT", True),
}
UNKNOWN = ("unknown: read the terms of the weights", False)


def _spec(name: str, source: str) -> TeacherSpec:
    from students.zoo.tinyclip import AUTO

    student, _ = parts(source, f"{KEY}:NAME@FILE, as student:mobileclip-s0@mobileclip_s0.pt")
    licence, commercial = next((terms for start, terms in TERMS.items() if student.startswith(start)), UNKNOWN)
    if student.startswith(AUTO):  # the shape is the file's
        width, size = 512, 224
    else:
        spec = STUDENTS.get(student)
        width, size = int(spec.model_cfg["embed_dim"]), spec.image_size
    return TeacherSpec(name, KEY, source, width, size, None, "softmax", licence, commercial)


def parts(source: str, form: str) -> tuple[str, Path]:
    """ "NAME@FILE" -> (NAME, FILE). Raises UsageError that shows the `form` where no file is there."""
    student, at, file = source.rpartition("@")
    path = Path(file).expanduser()
    if not at or not student or not path.is_file():
        missing = f"There is no file {str(path)!r}." if at and student else f"{source!r} names no file."
        raise UsageError(f"{missing} Write {form}.")
    return student, path


def _load(spec: TeacherSpec, random_weights: bool, seed: int) -> "OpenClipTeacher":
    from students.checkpoints.read import read_student
    from students.student import build_student
    from teachers.open_clip.teacher import LoadedClip, OpenClipTeacher, Preprocess

    name, file = parts(spec.source, f"{KEY}:NAME@FILE")
    student = build_student(STUDENTS.get(name), seed) if random_weights else read_student(name, file)
    own = student.spec
    clip = LoadedClip(
        student.clip,
        own.model_cfg,
        Preprocess(own.image_size, own.mean, own.std, own.interpolation),
        student.tokenizer,
        student.vocabulary,
        student.vocabulary,
        "random" if random_weights else sha256_file(file),
        own.resize_mode,
        student.merges,
    )
    return OpenClipTeacher(spec, clip)


class ImageTowerFile(Teacher):
    """A timm model's file: weights for a student's image tower, and nothing that labels."""

    resize_mode, interpolation, logit_scale, logit_bias = "shortest", "bicubic", 1.0, 0.0

    def __init__(self, spec: TeacherSpec, weights: ClipWeights) -> None:
        self.spec, self.weights, self.weights_sha256 = spec, weights, weights.sha256

    def inheritable(self) -> ClipWeights:
        """The tower, in the place that a student has it."""
        return self.weights

    @property
    def device(self) -> str:
        """Of the weights."""
        return "cpu"

    @property
    def parameters(self) -> dict[str, int] | None:
        """Not those of an image-text model."""
        return None

    def to(self, device: Any) -> "ImageTowerFile":
        """Nothing moves."""
        return self

    def encode_image(self, pixels: Any) -> Any:
        """Raises UsageError: it has no embeddings."""
        raise UsageError(
            f"{self.spec.name!r} is an image tower to inherit from (student.inherit_from), and no teacher."
        )

    def encode_text(self, captions: list[str]) -> Any:
        """As `encode_image`."""
        return self.encode_image(captions)

    def describe(self) -> dict[str, object]:
        """Where the weights are from."""
        return {"spec": asdict(self.spec), "weights_sha256": self.weights_sha256}


def _timm_spec(name: str, source: str) -> TeacherSpec:
    parts(source, f"{TIMM}:TOWER@FILE, as timm:tf_efficientnet_lite0@weights.safetensors")
    return TeacherSpec(name, TIMM, source, 0, 0, None, "softmax", *UNKNOWN)


def _timm_load(spec: TeacherSpec, random_weights: bool, seed: int) -> ImageTowerFile:
    from dataclasses import replace

    from students.checkpoints.read import read_image_tower

    tower, file = parts(spec.source, f"{TIMM}:TOWER@FILE")
    weights = read_image_tower(tower, file)
    return ImageTowerFile(spec, replace(weights, name=spec.name, licence=spec.licence, commercial=spec.commercial))


TEACHER_LOADERS.register(KEY)(TeacherLoader(_load, spec_of_name=_spec, absolute=absolute_checkpoint))
TEACHER_LOADERS.register(TIMM)(TeacherLoader(_timm_load, spec_of_name=_timm_spec, absolute=absolute_checkpoint))

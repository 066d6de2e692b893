"""What every teacher can do. Loaders (open_clip, folder, towers) return objects of this shape."""

from typing import TYPE_CHECKING, Protocol

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
    """

    spec: TeacherSpec
    logit_scale: float
    logit_bias: float
    weights_sha256: str

    def encode_image(self, pixels: "Tensor") -> "Tensor":
        """[b, 3, H, W] RGB in [0, 1], any H and W -> [b, D] float32, unit length, no gradient."""
        ...

    def encode_text(self, captions: list[str]) -> "Tensor":
        """b captions -> [b, D] float32, unit length, no gradient."""
        ...

    def describe(self) -> dict[str, object]:
        """What a manifest records: spec, weights hash, preprocessing, scale, bias, tokenizer."""
        ...

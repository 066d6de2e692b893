"""`ClipWeights`: what a teacher gives a student that inherits from it. Importable without torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ClipWeights:
    """A whole open_clip model, to be inherited from.

    Attributes:
        name: of the model, as plans and messages call it.
        model_cfg: its open_clip configuration (embed_dim, vision_cfg, text_cfg).
        state: its state dict, in open_clip's names.
        sha256: of the weights; "random" in a rehearsal.
        vocabulary: which tokens its text tower reads, as `distill.core.clip.folder.vocabulary_id` has it. Token embeddings
            mean the same only under equal ones.
        licence: the terms of the weights.
        commercial: whether these allow commercial use.
    """

    name: str
    model_cfg: dict[str, Any]
    state: "dict[str, Tensor]" = field(repr=False)
    sha256: str
    vocabulary: str = ""
    licence: str = ""
    commercial: bool = True

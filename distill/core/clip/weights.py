"""`ClipWeights`: what a teacher gives a student that inherits from it. Importable without torch."""

from collections.abc import Callable, Sequence
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
        tokens: the vocabulary's tokens as text, by id; None = not known.
        model: the module that holds `state`, in eval mode; None = build one from `model_cfg` where it is needed.
        normalise: pixels in [0, 1] [b, 3, H, W], any H and W -> what the image tower reads; None = not known.
        tokenize: b captions -> LongTensor [b, L]; None = not known.
    """

    name: str
    model_cfg: dict[str, Any]
    state: "dict[str, Tensor]" = field(repr=False)
    sha256: str
    vocabulary: str = ""
    licence: str = ""
    commercial: bool = True
    tokens: Sequence[str] | None = field(default=None, repr=False)
    model: Any = field(default=None, repr=False, compare=False)
    normalise: "Callable[[Tensor], Tensor] | None" = field(default=None, repr=False, compare=False)
    tokenize: "Callable[[list[str]], Tensor] | None" = field(default=None, repr=False, compare=False)

"""What every captioner can do, and the facts that travel with it. Importable without torch.

A captioner turns images into captions; it does not see views, only whole upright images. Which captions of a sample
are used in training is a policy of `reinforced_data.training.pairs`, not of the captioner.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from distill.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Decode:
    """How captions are decoded.

    Attributes:
        captions: N, captions per image.
        top_p: nucleus of the sampling (MobileCLIP2: 0.9); None with `beams` > 1.
        temperature: of the sampling.
        beams: 1 = sampling, more = beam search (N best beams; N <= beams).
        max_tokens, min_tokens: length limits of a caption in the captioner's own tokens.
        seed: of the sampling, mixed with the sample's own number.
    """

    captions: int = 5
    top_p: float | None = 0.9
    temperature: float = 1.0
    beams: int = 1
    max_tokens: int = 76
    min_tokens: int = 5
    seed: int = 0


@dataclass(frozen=True)
class CaptionerSpec:
    """One captioner, before its weights are read.

    Attributes:
        name: what the user called it and what its captions are tagged with ("synthetic:<name>").
        loader: the key in CAPTIONERS that builds it ("coca", "hf", "command", "python").
        source: what the loader needs ("coca_ViT-L-14/laion2b_s13b_b90k", a hub name, a command line, "module:function").
        licence, commercial: as of `TeacherSpec`.
    """

    name: str
    loader: str
    source: str
    licence: str
    commercial: bool


class Captioner(Protocol):
    """A frozen image-to-text model.

    Attributes:
        spec: its facts.
        decode: how it decodes.
        weights_sha256: of the weights in use; of the command or function for the user's own; "random" in a rehearsal.
    """

    spec: CaptionerSpec
    decode: Decode
    weights_sha256: str

    def caption(self, images: "list[Array]", seeds: list[int]) -> list[list[str]]:
        """Captions of b images.

        Args:
            images: b upright RGB images, [H, W, 3] uint8 each, any sizes.
            seeds: one per image; an image's captions depend on (its pixels, its seed, decode) and not on its neighbours.

        Returns:
            b lists of at most `decode.captions` captions, not yet cleaned; an empty list where it had nothing to say.

        Raises DistillError when the captioner as a whole is broken (a failing command, no memory).
        """
        ...

    def describe(self) -> dict[str, object]:
        """What a manifest records: spec, decode, weights hash, preprocessing, tokenizer, versions that matter."""
        ...


# loader key -> build(spec, decode, random_weights, seed) -> Captioner; implementations in teachers/captioners/
CAPTIONERS: Registry[Any] = Registry("captioner", ("teachers.captioners",))
# public name -> facts, for `distill list captioners` and `teachers.load_captioner`
CAPTIONER_SPECS: Registry[CaptionerSpec] = Registry("captioner", ("teachers.captioners",))

"""What every captioner can do, its settings, and the registry of the loaders that build captioners. Importable without torch.

A captioner turns images into captions; it does not see views, only whole upright images. Which captions of a sample
are used in training is a policy of `reinforced_data.training.pairs`, not of the captioner.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from distill.core.errors import UsageError
from distill.core.registry import Registry
from distill.core.strict import Strict

if TYPE_CHECKING:
    from distill.core.arrays import Array


class CaptionSettings(Strict):
    """How captions are decoded."""

    captions: int = Field(5, ge=1, description="captions per image and captioner")
    top_p: float | None = Field(0.9, gt=0, le=1, description="nucleus of the sampling; ignored with beams")
    temperature: float = Field(1.0, ge=0, description="of the sampling; 0 = greedy")
    beams: int = Field(1, ge=1, description="1 = sampling")
    max_tokens: int = Field(76, ge=1, description="of a caption, in the captioner's own tokens")
    min_tokens: int = Field(5, ge=0, description="no caption ends before so many")
    seed: int = Field(0, ge=0, description="of the sampling, mixed with each sample's own number")

    def image_seed(self, seed: int) -> int:
        """The 63-bit seed of one image's captions: these settings' seed and the image's own, mixed."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{seed}".encode()).digest()[:8], "big") >> 1

    def checked(self) -> "CaptionSettings":
        """These settings as decoding uses and manifests record them: beam search has no nucleus.

        Raises UsageError naming the values that do not go together.
        """
        wrong = ""
        if 1 < self.beams < self.captions:
            wrong = (
                f"captions is {self.captions} with {self.beams} beams: beam search gives at most one caption per beam"
            )
        elif self.min_tokens > self.max_tokens:
            wrong = f"min_tokens is {self.min_tokens}: from 0 to max_tokens ({self.max_tokens})"
        if wrong:
            raise UsageError(f"These captions cannot be decoded: {wrong}.")
        return self.model_copy(update={"top_p": None}) if self.beams > 1 else self


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
        settings: how it decodes.
        weights_sha256: of the weights in use; of the command or function for the user's own; "random" in a rehearsal.
    """

    spec: CaptionerSpec
    settings: CaptionSettings
    weights_sha256: str

    @property
    def device(self) -> Any:
        """The torch device on which the weights are; "cpu" for the user's own, which look after themselves."""
        ...

    def to(self, device: Any) -> "Captioner":
        """The same captioner, its weights, where it has any here, moved to a torch device."""
        ...

    def caption(self, images: "list[Array]", seeds: list[int]) -> list[list[str]]:
        """Captions of b images.

        Args:
            images: b upright RGB images, [H, W, 3] uint8 each, any sizes.
            seeds: one per image; an image's captions depend on its pixels, its seed and the settings, not on its neighbours.

        Returns:
            b lists of at most `settings.captions` captions, not yet cleaned; an empty list where it had nothing to say.

        Raises DistillError when the captioner as a whole is broken (a failing command, no memory).
        """
        ...

    def describe(self) -> dict[str, object]:
        """What a manifest records: spec, settings ("decode"), weights hash, preprocessing, tokenizer, versions that matter."""
        ...


@dataclass(frozen=True)
class CaptionerLoader:
    """One way to build captioners, and how users name the captioners that it builds.

    Attributes:
        load: (spec, settings, random_weights, seed of those) -> the captioner, frozen, on the CPU.
        spec_of_name: for names "KEY:SOURCE", where KEY is the loader's own: (whole name, SOURCE) -> its facts. None when
            no name is of that form. It runs nothing, reads no weights and never reaches the network.
        spec_of_folder: (name, that folder) -> its facts, or None when the folder is no captioner of this kind. None when
            no folder is.
        absolute: SOURCE with the paths in it absolute, so that the name means the same from every folder.
        forms: what users write, for messages: ("coca:MODEL/TAG", "coca:MODEL@CHECKPOINT").
    """

    load: Callable[[CaptionerSpec, CaptionSettings, bool, int], Captioner]
    spec_of_name: Callable[[str, str], CaptionerSpec] | None = None
    spec_of_folder: Callable[[str, Path], CaptionerSpec | None] | None = None
    absolute: Callable[[str], str] = str
    forms: tuple[str, ...] = ()


# `CaptionerSpec.loader` -> the loader; implementations in teachers/captioners/
CAPTIONERS: Registry[CaptionerLoader] = Registry("captioner", ("teachers.captioners",))
# public name -> facts, for `distill list captioners` and `teachers.load_captioner`
CAPTIONER_SPECS: Registry[CaptionerSpec] = Registry("captioner", ("teachers.captioners",))

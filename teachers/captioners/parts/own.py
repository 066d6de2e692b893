"""What the user's own captioners, commands and functions, have in common.

More captions than were asked for are cut. Neither is confined: what the command or function does is the user's business.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from typing_extensions import override

from distill.core.errors import DistillError
from teachers.captioner import Captioner, CaptionerSpec, CaptionSettings

LICENCE = "unknown: the user's own captioner"
Own = TypeVar("Own", bound="OwnCaptioner")


class OwnCaptioner(Captioner):
    """What commands and functions share: no weights that could be moved."""

    spec: CaptionerSpec
    settings: CaptionSettings
    weights_sha256: str
    device = "cpu"  # what the user's own code does with a GPU is not known here

    @override
    def to(self: Own, device: Any) -> Own:
        return self

    @override
    def describe(self) -> dict[str, object]:
        return {
            "spec": asdict(self.spec),
            "decode": self.settings.model_dump(),
            "weights_sha256": self.weights_sha256,
            "rehearsal": False,
            "preprocess": "whole upright RGB images",
            "tokenizer": "the captioner's own",
        }


def captions_of(
    answer: Any, number: int, settings: CaptionSettings, broken: Callable[[str], DistillError]
) -> list[str]:
    """The captions in one answer: a text, a list of texts, or {"captions": either}.

    Args:
        answer: what the command or function gave for an image.
        number: of the image in its batch, for the message.
        settings: how many captions were asked for.
        broken: makes the error that is raised where the answer is something else.
    """
    if isinstance(answer, dict):
        answer = answer.get("captions", answer)
    if isinstance(answer, str):
        answer = [answer]
    if not isinstance(answer, (list, tuple)) or not all(isinstance(text, str) for text in answer):
        raise broken(f"gave for image {number} neither a caption nor a list of captions: {str(answer)[:120]!r}")
    return [str(text) for text in answer[: settings.captions]]

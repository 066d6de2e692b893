"""`TeacherSpec`: the facts that travel with a teacher's weights. Importable without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.core.registry import Registry


@dataclass(frozen=True)
class TeacherSpec:
    """One named teacher.

    Attributes:
        name: registry name, for example "dfn-vitl14"; also the key of its embeddings everywhere.
        loader: the key in `teachers.teacher.TEACHER_LOADERS` of the loader that builds it: "open_clip", "folder" or "towers".
        source: what the loader needs: "MODEL/TAG" for open_clip, a path for a folder.
        width: D, embedding width.
        image_size: pixels, square.
        logit_scale: multiplies cosine similarity, already exponentiated; None = the checkpoint's own.
        kind: "softmax" (CLIP) or "sigmoid" (SigLIP, which also has a logit_bias in its checkpoint).
        licence: SPDX id, or the words of the weights' own terms.
        commercial: whether that licence allows commercial use.
        hub: the Hugging Face repository that holds the weights, "" for none.
        file: checkpoint file name inside `hub`, "" for none.
        imagenet_top1: published zero-shot ImageNet-1k top-1 in percent, None when unpublished.
    """

    name: str
    loader: str
    source: str
    width: int
    image_size: int
    logit_scale: float | None
    kind: Literal["softmax", "sigmoid"]
    licence: str
    commercial: bool
    hub: str = ""
    file: str = ""
    imagenet_top1: float | None = None


@dataclass(frozen=True)
class TeacherFacts:
    """What a loss may know of a teacher whose embeddings come from a store or from elsewhere.

    Attributes:
        name: key of its embeddings.
        width: D_t, of its embeddings.
        logit_scale: multiplies cosine similarity, already exponentiated.
        logit_bias: is added to it; 0.0 for softmax teachers.
        kind: "softmax" or "sigmoid", see `TeacherSpec`.
    """

    name: str
    width: int
    logit_scale: float
    logit_bias: float
    kind: Literal["softmax", "sigmoid"]


TEACHERS: Registry[TeacherSpec] = Registry("teacher", ("teachers.zoo",))


def absolute_path(text: str) -> str:
    """`text` as an absolute path where it is a path: something is there, or it begins with "~"; any other name as it is."""
    path = Path(text).expanduser()
    return str(path.absolute()) if text.startswith("~") or (text and path.exists()) else text


def absolute_checkpoint(source: str) -> str:
    """ "MODEL@PATH" with the path absolute; "MODEL/TAG" as it is."""
    model, at, path = source.partition("@")
    return f"{model}@{absolute_path(path)}" if at else source

"""Any open_clip model as a frozen teacher: `OpenClipTeacher`, and the loader of published weights and checkpoints.

The model is built and the checkpoint loaded with open_clip's own classes, but the weights are found by
`distill.core.folders.hub` (offline first) and nothing else is fetched. In a rehearsal (`random_weights=True`) the full-size
architecture is built without touching the network. Left out: what names mean (`teachers.open_clip.names`), models made
by this toolkit (`teachers.open_clip.folder`), image towers that want other than square crops, and training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from distill.core.clip.folder import twins, vocabulary_id
from distill.core.clip.model import count_parameters
from distill.core.clip.tokenizer import token_texts
from distill.core.clip.weights import ClipWeights
from distill.core.errors import DistillError
from distill.core.folders.hub import find_weights
from teachers.open_clip.names import common_entry, model_config, pretrained_config, split_source, square
from teachers.spec import TeacherSpec
from teachers.teacher import Teacher

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """How a model wants its pixels: square size, RGB mean and std of values in [0, 1], "bicubic" or "bilinear"."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


@dataclass(frozen=True)
class LoadedClip:
    """An open_clip model in memory, and what belongs to its weights.

    Attributes:
        model: an open_clip CLIP, CustomTextCLIP or CoCa.
        model_cfg: its open_clip configuration.
        preprocess: image size and normalisation.
        tokenizer: b captions -> LongTensor [b, L].
        tokenizer_name: what `describe` calls it.
        vocabulary: its name, see `distill.core.clip.folder.vocabulary_id`.
        weights_sha256: of the checkpoint file; "random" in a rehearsal.
        resize_mode: how a whole image becomes a square, in open_clip's words.
        merges: the tokenizer's merges file where the vocabulary is a cut one.
    """

    model: Any
    model_cfg: dict[str, Any]
    preprocess: Preprocess
    tokenizer: Any
    tokenizer_name: str
    vocabulary: str
    weights_sha256: str
    resize_mode: str = "shortest"
    merges: Path | None = None


class OpenClipTeacher(Teacher):
    """A frozen open_clip model that resizes, normalises and tokenises for itself.

    Args:
        spec: its facts; `spec.logit_scale`, where set, wins over the checkpoint's own.
        clip: the model, put into eval mode with gradients off, and what belongs to it.
    """

    def __init__(self, spec: TeacherSpec, clip: LoadedClip) -> None:
        self.spec = spec
        self.model = clip.model.eval().requires_grad_(False)
        self.model_cfg = clip.model_cfg
        self.preprocess = clip.preprocess
        self.resize_mode = clip.resize_mode
        self.interpolation = clip.preprocess.interpolation
        self.tokenizer = clip.tokenizer
        self.tokenizer_name = clip.tokenizer_name
        self.vocabulary = clip.vocabulary
        self.merges = clip.merges
        self.weights_sha256 = clip.weights_sha256
        self.context_length = int(self.tokenizer.context_length)
        own_scale = float(self.model.logit_scale.detach().float().exp())
        self.logit_scale = own_scale if spec.logit_scale is None else float(spec.logit_scale)
        bias = getattr(self.model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias.detach().float())

    @override
    def to(self, device: Any) -> OpenClipTeacher:
        self.model.to(device)
        return self

    @property
    @override
    def device(self) -> Any:
        return next(self.model.parameters()).device

    @property
    @override
    def parameters(self) -> dict[str, int]:
        return count_parameters(self.model)

    @override
    def inheritable(self) -> ClipWeights:
        return ClipWeights(
            self.spec.name,
            self.model_cfg,
            dict(self.model.state_dict()),
            self.weights_sha256,
            self.vocabulary,
            self.spec.licence,
            self.spec.commercial,
            token_texts(self.tokenizer),
            self.model,
            self._ready,
            lambda captions: self.tokenizer(list(captions)),
        )

    def _ready(self, pixels: Tensor) -> Tensor:
        return normalise(resize(pixels, self.preprocess.size, self.preprocess.interpolation), self.preprocess)

    @override
    def encode_image(self, pixels: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            return unit(self.model.encode_image(self._ready(pixels.to(self.device))))

    @override
    def encode_text(self, captions: list[str]) -> Tensor:
        import torch

        with torch.no_grad():
            return unit(self.model.encode_text(self.tokenizer(list(captions)).to(self.device)))

    @override
    def describe(self) -> dict[str, object]:
        return {
            "spec": asdict(self.spec),
            "weights_sha256": self.weights_sha256,
            "rehearsal": self.weights_sha256 == "random",
            "preprocess": asdict(self.preprocess),
            "logit_scale": self.logit_scale,
            "logit_bias": self.logit_bias,
            "tokenizer": self.tokenizer_name,
            "context_length": self.context_length,
        }


def resize(pixels: Tensor, size: int, interpolation: str) -> Tensor:
    """[b, 3, H, W] -> [b, 3, size, size] in [0, 1]; untouched where the size is right already."""
    import torch

    if tuple(pixels.shape[-2:]) == (size, size):
        return pixels
    resized = torch.nn.functional.interpolate(
        pixels, size=(size, size), mode=interpolation, align_corners=False, antialias=True
    )
    return resized.clamp_(0.0, 1.0)  # bicubic overshoots; an 8-bit image could not have


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """(pixels - mean) / std per channel."""
    mean = pixels.new_tensor(preprocess.mean).view(1, 3, 1, 1)
    std = pixels.new_tensor(preprocess.std).view(1, 3, 1, 1)
    return (pixels - mean) / std


def unit(embeddings: Tensor) -> Tensor:
    """[b, D] -> float32, unit length."""
    import torch

    return torch.nn.functional.normalize(embeddings.float(), dim=-1)


def load_open_clip(
    spec: TeacherSpec, *, random_weights: bool = False, seed: int = 0, noun: str = "teacher"
) -> OpenClipTeacher:
    """Build the teacher that `spec` names; `noun` is what messages call it.

    Raises:
        DistillError: its weights or tokenizer are not here and cannot be had, or do not fit.
    """
    from distill.core.clip.tokenizer import tokenizer_of
    from teachers.open_clip.model import build_unfilled, fill_random, load_checkpoint

    model_name, tag, path = split_source(spec.source)
    config = model_config(model_name)
    entry = pretrained_config(model_name, tag) if path is None else common_entry(model_name)
    if entry.get("quick_gelu"):
        config["quick_gelu"] = True  # the weights were trained with it, whatever the model name says
    if not random_weights:  # before the model is built, so that a refusal is quick
        path = path or _weights(spec, entry, noun)
        tokenizer, tokenizer_name = tokenizer_of(config, stand_in=False, what=f"the tokenizer of {noun} {spec.name!r}")
        model = build_unfilled(config)
        sha256 = load_checkpoint(model, path, what=f"{model_name} for {noun} {spec.name!r}")
    else:
        tokenizer, tokenizer_name = tokenizer_of(config, stand_in=True)
        model = fill_random(build_unfilled(config, seed=seed), seed)
        sha256 = "random"
    preprocess = Preprocess(
        size=square(config["vision_cfg"].get("image_size", 224)),
        mean=tuple(entry["mean"]),
        std=tuple(entry["std"]),
        interpolation=entry["interpolation"],
    )
    spec = replace(spec, width=int(config["embed_dim"]), image_size=preprocess.size)
    vocabulary = str(config["text_cfg"].get("hf_tokenizer_name") or vocabulary_id(None))
    # With the QuickGELU of these very weights: a student that inherits must have the activation that they were trained with.
    clip = LoadedClip(
        model, config, preprocess, tokenizer, tokenizer_name, vocabulary, sha256, entry.get("resize_mode") or "shortest"
    )
    return OpenClipTeacher(spec, clip)


def _weights(spec: TeacherSpec, entry: dict[str, Any], noun: str) -> Path:
    what = f"the weights of {noun} {spec.name!r}"
    if not spec.hub:
        raise DistillError(
            f"Cannot find {what}: open_clip has them by URL only ({entry.get('url')}), which is not fetched here. "
            f"Download the file and name it: --teacher open_clip:{spec.source.rpartition('/')[0]}@PATH."
        )
    return find_weights(spec.hub, spec.file, what=what, alternatives=twins(spec.file))

"""Any open_clip model as a frozen teacher: `OpenClipTeacher`, and the loader of names like "ViT-L-14/dfn2b".

The model is built and the checkpoint loaded with open_clip's own classes, but the weights are found by
`distill.core.hub` (offline first) and nothing else is fetched. In a rehearsal (`random_weights=True`) the full-size
architecture is built without touching the network. Left out: image towers of square crops only (contract 1), and
training; see `teachers.open_clip.folder` for models made by this toolkit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError, UsageError, nearest
from distill.core.hub import find_weights
from distill.core.torch_compat import ensure_torchvision
from teachers.spec import TeacherSpec

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
SAFE_NAME, BIN_NAME = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"


@dataclass(frozen=True)
class Preprocess:
    """How a model wants its pixels: square size, RGB mean and std of values in [0, 1], "bicubic" or "bilinear"."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


class OpenClipTeacher:
    """A frozen open_clip model that resizes, normalises and tokenises for itself; see `teachers.teacher.Teacher`.

    Args:
        spec: its facts; `spec.logit_scale`, where set, wins over the checkpoint's own.
        model: an open_clip CLIP, CustomTextCLIP or CoCa; put into eval mode, gradients off.
        preprocess: image size and normalisation.
        tokenizer: list of captions -> LongTensor [b, L].
        tokenizer_name: what `describe` calls it.
        weights_sha256: of the checkpoint file; "random" in a rehearsal.
    """

    def __init__(
        self,
        spec: TeacherSpec,
        model: Any,
        preprocess: Preprocess,
        tokenizer: Any,
        tokenizer_name: str,
        weights_sha256: str,
    ) -> None:
        self.spec = spec
        self.model = model.eval().requires_grad_(False)
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.tokenizer_name = tokenizer_name
        self.weights_sha256 = weights_sha256
        self.context_length = int(tokenizer.context_length)
        own_scale = float(self.model.logit_scale.detach().float().exp())
        self.logit_scale = own_scale if spec.logit_scale is None else float(spec.logit_scale)
        bias = getattr(self.model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias.detach().float())

    def to(self, device: Any) -> OpenClipTeacher:
        """Move the weights; inputs follow by themselves."""
        self.model.to(device)
        return self

    @property
    def device(self) -> Any:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, H, W] RGB in [0, 1], any H and W -> [b, D] float32, unit length, no gradient."""
        import torch

        with torch.no_grad():
            ready = normalise(
                resize(pixels.to(self.device), self.preprocess.size, self.preprocess.interpolation), self.preprocess
            )
            return unit(self.model.encode_image(ready))

    def encode_text(self, captions: list[str]) -> Tensor:
        """B captions -> [b, D] float32, unit length, no gradient."""
        import torch

        with torch.no_grad():
            return unit(self.model.encode_text(self.tokenizer(list(captions)).to(self.device)))

    def describe(self) -> dict[str, object]:
        """What a manifest records."""
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


# --- names ---


def spec_of(name: str, source: str) -> TeacherSpec:
    """The spec of "MODEL/TAG" or "MODEL@PATH" made from open_clip's own tables; needs no network.

    Raises:
        UsageError: open_clip knows no such model or tag (with the nearest), or PATH is not a checkpoint.
    """
    model, tag, path = split_source(source)
    config = model_config(model)
    hub = file = ""
    licence = "unknown: read the terms of the weights"
    if path is None:
        hub, file = hub_file(model, tag)
        licence = f"unknown: read https://huggingface.co/{hub}" if hub else licence
    elif not (path.is_file() and path.suffix in CHECKPOINT_SUFFIXES):
        wanted = ", ".join(CHECKPOINT_SUFFIXES)
        raise UsageError(
            f"There is no checkpoint {str(path)!r} ({wanted}). In open_clip:MODEL@PATH, PATH is such a file."
        )
    return TeacherSpec(
        name=name,
        loader="open_clip",
        source=source,
        width=int(config["embed_dim"]),
        image_size=_square(config["vision_cfg"].get("image_size", 224)),
        logit_scale=None,
        kind="sigmoid" if config.get("init_logit_bias") is not None else "softmax",
        licence=licence,
        commercial=False,
        hub=hub,
        file=file,
    )


def split_source(source: str) -> tuple[str, str, Path | None]:
    """ "MODEL/TAG" -> (MODEL, TAG, None); "MODEL@PATH" -> (MODEL, "", PATH)."""
    if "@" in source:
        model, _, path = source.partition("@")
        return model, "", Path(path).expanduser()
    model, slash, tag = source.rpartition("/")
    if not slash:
        raise UsageError(
            f"open_clip:{source}: write open_clip:MODEL/TAG, or open_clip:MODEL@CHECKPOINT for a local file."
        )
    return model, tag, None


def model_config(model: str) -> dict[str, Any]:
    """open_clip's configuration of MODEL. Raises UsageError with the nearest known model."""
    open_clip = import_open_clip()
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise UsageError(f"open_clip knows no model {model!r}. {nearest(model, open_clip.list_models())}")
    return dict(config)


def pretrained_config(model: str, tag: str) -> dict[str, Any]:
    """open_clip's table entry of MODEL/TAG. Raises UsageError with the nearest known tag."""
    import_open_clip()
    from open_clip import pretrained

    entry = pretrained.get_pretrained_cfg(model, tag)
    if not entry:
        tags = pretrained.list_pretrained_tags_by_model(model)
        raise UsageError(f"open_clip has no weights {tag!r} of {model!r}. {nearest(tag, tags)}")
    return dict(entry)


def hub_file(model: str, tag: str) -> tuple[str, str]:
    """(repository, file) on the Hugging Face Hub; ("", "") for the few old weights that open_clip has by URL only."""
    entry = pretrained_config(model, tag).get("hf_hub", "")
    repo, _, file = entry.rpartition("/")
    return (repo, file or SAFE_NAME) if repo else ("", "")


# --- loading ---


def load_open_clip(
    spec: TeacherSpec, *, random_weights: bool = False, seed: int = 0, noun: str = "teacher"
) -> OpenClipTeacher:
    """Build the teacher that `spec` names; `noun` is what messages call it.

    Raises:
        DistillError: its weights or tokenizer are not here and cannot be had, or do not fit.
    """
    from teachers.open_clip.model import build_clip, fill_random, load_checkpoint, tokenizer_of

    model_name, tag, path = split_source(spec.source)
    config = model_config(model_name)
    entry = pretrained_config(model_name, tag) if path is None else _common_entry(model_name)
    if entry.get("quick_gelu"):
        config["quick_gelu"] = True  # the weights were trained with it, whatever the model name says
    if not random_weights:  # before the model is built, so that a refusal is quick
        path = path or _weights(spec, entry, noun)
        tokenizer, tokenizer_name = tokenizer_of(config, stand_in=False, what=f"the tokenizer of {noun} {spec.name!r}")
        model = build_clip(config)
        sha256 = load_checkpoint(model, path, what=f"{model_name} for {noun} {spec.name!r}")
    else:
        tokenizer, tokenizer_name = tokenizer_of(config, stand_in=True)
        model = fill_random(build_clip(config, seed=seed), seed)
        sha256 = "random"
    preprocess = Preprocess(
        size=_square(config["vision_cfg"].get("image_size", 224)),
        mean=tuple(entry["mean"]),
        std=tuple(entry["std"]),
        interpolation=entry["interpolation"],
    )
    spec = replace(spec, width=int(config["embed_dim"]), image_size=preprocess.size)
    return OpenClipTeacher(spec, model, preprocess, tokenizer, tokenizer_name, sha256)


def _weights(spec: TeacherSpec, entry: dict[str, Any], noun: str) -> Path:
    what = f"the weights of {noun} {spec.name!r}"
    if not spec.hub:
        raise DistillError(
            f"Cannot find {what}: open_clip has them by URL only ({entry.get('url')}), which is not fetched here. "
            f"Download the file and name it: --teacher open_clip:{spec.source.rpartition('/')[0]}@PATH."
        )
    pair = {SAFE_NAME: (BIN_NAME,), BIN_NAME: (SAFE_NAME,)}
    stem, dot, suffix = spec.file.rpartition(".")
    others = pair.get(spec.file, (f"{stem}{dot}safetensors",) if suffix != "safetensors" else ())
    return find_weights(spec.hub, spec.file, what=what, alternatives=others)


def _common_entry(model: str) -> dict[str, Any]:
    """Preprocessing for a bare checkpoint of `model`: what all its published weights share, or open_clip's default."""
    import_open_clip()
    from open_clip import pretrained
    from open_clip.transform import PreprocessCfg

    keys = ("mean", "std", "interpolation")
    default = {key: getattr(PreprocessCfg(), key) for key in keys}
    tags = pretrained.list_pretrained_tags_by_model(model)
    found = [{key: pretrained.get_pretrained_cfg(model, tag).get(key, default[key]) for key in keys} for tag in tags]
    return found[0] if found and all(one == found[0] for one in found) else default


def import_open_clip() -> Any:
    """The open_clip module, imported where torchvision's mismatch is mended first."""
    ensure_torchvision()
    import open_clip

    return open_clip


def _square(size: Any) -> int:
    return int(size[0] if isinstance(size, (tuple, list)) else size)

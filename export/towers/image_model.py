"""A timm image model alone, without a text tower: its folder, what it says, and its deployable tower.

The folder is timm's own form (config.json and model.safetensors, as `timm.models.save_for_hf` writes it and hubs hold it). A model
with a classifier is exported as what it was trained for, a picture to the probabilities of its classes: an app could not put
a head back that was cut off. One without (num_classes = 0) is exported as an image tower, its pooled features of unit
length. Left out: several feature maps, and labels that the folder does not name.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.arrays import Array
from distill.core.clip.checkpoint import load_weights
from distill.core.clip.folder import WEIGHTS_FILE, is_clip_folder, read_state
from distill.core.errors import DistillError
from distill.core.torch_compat import ensure_torchvision
from export.app.samples import Samples
from export.artifacts.folder import IMAGE_MODEL_FILE
from export.artifacts.record import Tower
from export.towers.parity import Reference
from export.towers.rewrite import fix_input_size, rewrite_for_export
from export.towers.tower import ImageTower
from students.reparameterize import refuse_training, reparameterize

BATCH = 16
TOLERANCE = 1e-4  # as of `export.towers.tower`


def is_image_model(path: Path) -> bool:
    """Whether the folder `path` says that it holds a timm model."""
    if is_clip_folder(path) or not (path / IMAGE_MODEL_FILE).is_file():
        return False
    try:
        return "architecture" in json.loads((path / IMAGE_MODEL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


class ImageModel(nn.Module):
    """A timm model in eval mode that takes pixels in [0, 1].

    Attributes:
        name: its architecture.
        net: timm's module.
        image_size: S, of the square that it takes.
        resize_to: pixels that the shorter side of a photo is brought to before the square is cut out.
        resize_mode, interpolation: in open_clip's words.
        classes: how many its classifier tells apart; 0 = it has none.
        labels: their names, in order; empty where the folder names none.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, net: nn.Module, preprocessing: dict[str, Any], labels: tuple[str, ...]) -> None:
        super().__init__()
        self.name, self.net, self.labels = name, net.eval(), labels
        self.classes = int(getattr(net, "num_classes", 0) or 0)
        channels, height, width = preprocessing["input_size"]
        if channels != 3 or height != width:
            raise DistillError(
                f"{name} cannot be exported: it takes {list(preprocessing['input_size'])}, and exports take RGB squares."
            )
        if labels and len(labels) != self.classes:
            raise DistillError(
                f"{name} cannot be exported: its {IMAGE_MODEL_FILE} names {len(labels)} labels, its classifier has {self.classes}."
            )
        self.image_size = int(height)
        self.resize_to, self.resize_mode = _resizing(name, self.image_size, preprocessing)
        self.interpolation = str(preprocessing["interpolation"])
        if self.interpolation not in ("bicubic", "bilinear"):
            raise DistillError(f"{name} cannot be exported: photos are resized for it by {self.interpolation!r}.")
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(preprocessing[key]).view(1, 3, 1, 1), persistent=False)

    @property
    def towers(self) -> tuple[Tower, ...]:
        """What is exported of it."""
        return ("classifier",) if self.classes else ("image",)

    def features(self, pixels: Tensor) -> Tensor:
        """[b, 3, S, S] RGB in [0, 1] -> what its classifier is given, [b, D], unit length."""
        net: Any = self.net
        pooled = net.forward_head(net.forward_features((pixels - self.mean) / self.std), pre_logits=True)
        return nn.functional.normalize(pooled, dim=-1)

    def probabilities(self, pixels: Tensor) -> Tensor:
        """[b, 3, S, S] RGB in [0, 1] -> of each class, [b, k]."""
        return self.net((pixels - self.mean) / self.std).softmax(-1)  # type: ignore[no-any-return]


def _resizing(name: str, size: int, preprocessing: dict[str, Any]) -> tuple[int, str]:
    mode, share = str(preprocessing.get("crop_mode") or "center"), float(preprocessing["crop_pct"])
    if mode == "center":
        return math.floor(size / share), "shortest"
    if mode == "squash" and share == 1:
        return size, "squash"
    raise DistillError(
        f"{name} cannot be exported: photos are cut for it by crop_mode {mode!r} with crop_pct {share:g}. Known: center, and "
        "squash with 1."
    )


def load_image_model(path: Path) -> ImageModel:
    """The model in a folder of timm's form. Raises DistillError that names what is wrong with it."""
    ensure_torchvision()
    import timm
    from timm.data import resolve_data_config

    try:
        config = json.loads((path / IMAGE_MODEL_FILE).read_text(encoding="utf-8"))
        name, given = str(config["architecture"]), dict(config.get("pretrained_cfg", {}))
        arguments = {"num_classes": config.get("num_classes"), **config.get("model_args", {})}
        if config.get("global_pool"):
            arguments.setdefault("global_pool", config["global_pool"])
        net = timm.create_model(name, pretrained=False, pretrained_cfg_overlay=given, **arguments)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DistillError(
            f"The timm model in {str(path)!r} cannot be made from its {IMAGE_MODEL_FILE}: {error}"
        ) from error
    load_weights(net, read_state(path), path=path / WEIGHTS_FILE, what=f"timm's {name}")
    labels = config.get("label_names") or given.get("label_names") or ()
    return ImageModel(
        name, net, resolve_data_config(pretrained_cfg={**net.pretrained_cfg, **given}), tuple(map(str, labels))
    )


class _Pooled(nn.Module):
    """What a timm model's classifier is given, or with `whole` its logits."""

    def __init__(self, net: nn.Module, whole: bool) -> None:
        super().__init__()
        self.trunk, self.whole = net, whole

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.trunk
        return net(x) if self.whole else net.forward_head(net.forward_features(x), pre_logits=True)  # type: ignore[no-any-return]


class HeadedTower(ImageTower):
    """Pixels to the probabilities of a model's own classes."""

    def finish(self, features: Tensor) -> Tensor:
        """Logits [b, k] -> probabilities."""
        return features.softmax(-1)


def deployable_image_model(model: ImageModel) -> ImageTower:
    """The model for export: a rewritten copy, which says what its `towers` name. Raises DistillError where it has no such form."""
    size = model.image_size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).double()
    whole = bool(model.classes)
    net, _ = reparameterize(_Pooled(model.net, whole), lambda net: net(pixels), torch.float64)
    fix_input_size(net, size)
    try:
        rewrite_for_export(net)
    except ValueError as error:
        raise DistillError(f"{model.name} cannot be exported: {error}. Choose another model.") from error
    tower = (HeadedTower if whole else ImageTower)(net, model.mean, model.std)
    refuse_training(tower.eval().cpu().float())
    for parameter in tower.parameters():
        parameter.requires_grad_(False)
    return tower


@torch.no_grad()
def image_model_towers(model: ImageModel, given: Samples) -> tuple[dict[Tower, ImageTower], Reference]:
    """The tower that is exported, and what the eager model says to the parity samples.

    Raises DistillError where the two differ by more than `TOLERANCE`.
    """
    tower, (kind,) = deployable_image_model(model), model.towers
    pixels = torch.from_numpy(given.pixels)
    parts = torch.split(pixels, BATCH)
    features: Array = torch.cat([model.features(part) for part in parts]).numpy()
    if features.ndim != 2:
        raise DistillError(
            f"{model.name} cannot be exported: its pooled features have {features.ndim} axes, not [b, D]."
        )
    said = torch.cat([model.probabilities(part) for part in parts]).numpy() if model.classes else None
    reference = Reference(given.pixels, given.tokens, features, features[:0], said)
    difference = float((tower(pixels[:4]) - torch.from_numpy(reference.outputs(kind)[:4])).abs().max())
    if not difference <= TOLERANCE:
        raise DistillError(
            f"The deployable tower differs from {model.name} by {difference:.2g}, more than {TOLERANCE:g}: a rewrite does not fit "
            "this architecture. Nothing was exported; please report this model."
        )
    return {kind: tower}, reference

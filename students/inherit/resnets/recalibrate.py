"""The repair of a sliced ResNet: its normalisations' statistics are measured again on calibration pairs.

A convolution that lost inputs has outputs of another mean and variance than those that its normalisation was trained on; behind
new statistics every kept channel has the mean and variance again that the source gave it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core.clip.model import build_clip
from distill.core.clip.weights import ClipWeights
from students.inherit.calibration import Calibration
from students.inherit.resnets.tower import PREFIX
from students.inherit.scoring.probe import pieces


def recalibrate(
    source: ClipWeights,
    model_cfg: dict[str, Any],
    state: dict[str, Tensor],
    calibration: Calibration,
    *,
    variances: bool,
) -> dict[str, Tensor]:
    """Name -> tensor, of the statistics that replace those of the student's image tower.

    Args:
        source: gives the preprocessing of pixels.
        model_cfg, state: the student's configuration and whole state dict, left as it is.
        calibration: the pairs, whose images are run.
        variances: replace variances too, not means alone.
    """
    assert source.normalise is not None
    model = build_clip(model_cfg, seed=0)
    model.load_state_dict(state)
    visual: Any = model.get_submodule("visual").eval()
    norms = {name: module for name, module in visual.named_modules() if isinstance(module, nn.BatchNorm2d)}
    kinds = ("running_mean", "running_var") if variances else ("running_mean",)
    seen: dict[str, Tensor] = {}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(_measuring(f"{PREFIX}{name}.", kinds, seen))
    size = model_cfg["vision_cfg"]["image_size"]
    with torch.no_grad():
        for piece in pieces(calibration):
            pixels = source.normalise(calibration.images[piece])
            if pixels.shape[-1] != size:
                pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True, align_corners=False)
            visual(pixels)
    kinds = ("running_mean", "running_var") if variances else ("running_mean",)
    return {name: total / len(pieces(calibration)) for name, total in seen.items()}


def _measuring(
    name: str, kinds: tuple[str, ...], seen: dict[str, Tensor]
) -> Callable[[nn.Module, tuple[Tensor]], None]:
    """Gives a normalisation the statistics of what it is about to read, and adds them up in `seen`."""

    def hook(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        measured = {"running_mean": inputs[0].mean((0, 2, 3)), "running_var": inputs[0].var((0, 2, 3))}
        for kind in kinds:
            setattr(norm, kind, measured[kind])
            seen[name + kind] = seen.get(name + kind, torch.zeros(())) + measured[kind]

    return hook

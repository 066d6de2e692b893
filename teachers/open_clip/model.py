"""Building open_clip modules quickly for weights to come, filling them with random numbers, loading checkpoints.

Imports torch; keep it out of modules that are imported to list names. Left out: the building itself
(`distill.core.clip.model`), which weights and which preprocessing (`teachers.open_clip.teacher`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distill.core.atomic import sha256_file
from distill.core.clip.checkpoint import load_weights, read_checkpoint
from distill.core.clip.layouts import open_clip_names
from distill.core.clip.model import build_clip
from distill.core.errors import DistillError

_LARGE = 65_536  # elements; smaller tensors keep their own initialisation, which costs nothing
_POOL = 1_048_573  # a prime, so that rows cut from the pool of random numbers do not line up
_RANDOM_FILLS = {  # tensor methods, and the functions of torch.nn.init, which are intercepted as a whole
    *("normal_", "uniform_", "erfinv_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"),
    *("xavier_uniform_", "xavier_normal_", "orthogonal_", "sparse_"),
}
M = TypeVar("M", bound=nn.Module)


class _SkipLargeFills(TorchFunctionMode):
    """Leaves large tensors unfilled while a model is built: filling them takes seconds, for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        target = args[0] if args else (kwargs or {}).get("tensor")
        if getattr(func, "__name__", "") in _RANDOM_FILLS and isinstance(target, Tensor) and target.numel() > _LARGE:
            return target
        return func(*args, **(kwargs or {}))


def build_unfilled(model_cfg: dict[str, Any], *, seed: int = 0, device: str | None = None) -> nn.Module:
    """As `distill.core.clip.model.build_clip`, but the large tensors hold no meaningful values yet."""
    with _SkipLargeFills():
        return build_clip(model_cfg, seed=seed, device=device)


def fill_random(model: M, seed: int) -> M:
    """Fill every large tensor with small normal values, at memory speed; embeddings stay finite. Returns `model`."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(_POOL, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > _LARGE:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
                flat = parameter.view(-1)
                for start in range(0, flat.numel(), _POOL):
                    piece = flat[start : start + _POOL]
                    torch.mul(pool[: piece.numel()], 0.7 / math.sqrt(fan_in), out=piece)
    return model


def load_checkpoint(model: nn.Module, path: Path, *, what: str) -> str:
    """Load an open_clip checkpoint (any layout that open_clip converts) strictly; returns the file's SHA-256.

    Raises:
        DistillError: the file is unreadable, holds pickled objects other than tensors, or does not fit the model.
    """
    if path.suffix in (".npz", ".npy"):
        _load_big_vision(model, path, what)
    else:
        load_weights(model, open_clip_names(model, read_checkpoint(path)), path=path, what=what)
    return sha256_file(path)


def _load_big_vision(model: nn.Module, path: Path, what: str) -> None:
    """SigLIP's weights as Google published them, in numpy arrays."""
    from open_clip.convert import load_big_vision_weights

    try:
        load_big_vision_weights(model, str(path))
    except Exception as error:  # a missing array is a KeyError, another shape an assertion, a cut file a zip error
        detail = f"{type(error).__name__} {error}"
        raise DistillError(
            f"{path} cannot be loaded as {what}: {detail[:300]}. Check that the file is whole and of this model."
        ) from None

"""Exact folding of a trained model into the one that runs: branches into one kernel, norms and layer scales into neighbours.

`reparameterize` returns a copy; the model in training is never touched, and the copy refuses to be trained. timm's function of the
same name merges the branches and leaves the BatchNorms that stand alone; those go where `students.folding` finds a place for them.
Left out: rewrites that one exporter needs (export.towers).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.core.errors import DistillError
from students.folding import Folding, fold_norms

TOLERANCE = (
    1e-9  # between both models' outputs, in float64, relative to the largest: folding rounds, and does nothing else
)


def reparameterize(
    model: nn.Module, outputs: Callable[[Any], Tensor], dtype: torch.dtype = torch.float32
) -> tuple[Any, Folding]:
    """A copy of `model` in eval mode with everything folded that can be, and what was.

    Args:
        model: any module; timm's and open_clip's are the ones it is made for.
        outputs: computes what must stay the same from a model in float64, for example `lambda clip: clip.encode_image(pixels)`.
        dtype: of the copy's weights; all is folded in float64 and rounded once.

    Raises:
        DistillError: where the copy computes something else than the model.
    """
    from timm.utils import reparameterize_model

    result: Any = copy.deepcopy(model).eval().double()
    for parameter in result.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        plain = not any(isinstance(part, _BatchNorm) for part in result.modules())
        wanted = None if plain else outputs(result)
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # timm makes RepViT's folded convolutions in the default
        try:
            result = reparameterize_model(result, inplace=True)
        finally:
            torch.set_default_dtype(usual)
        folding = fold_norms(result)
        if wanted is not None:
            folding.difference = float((outputs(result) - wanted).abs().max())
    if wanted is not None and not folding.difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise DistillError(
            f"The folded model differs from the trained one by {folding.difference:.2g} in float64, more than rounding: a module "
            f"is not what its name says ({', '.join(folding.folded[:3]) or 'a branch of timm'}, ...). Please report the model."
        )
    refuse_training(result)
    return result.to(dtype), folding


def refuse_training(module: nn.Module) -> None:
    """Let `module` raise DistillError when it is set to training: its BatchNorms and branches are gone for good."""
    own = type(module)
    module.__class__ = type(f"Folded{own.__name__}", (_Untrainable, own), {"__module__": own.__module__})


class _Untrainable:
    def train(self, mode: bool = True) -> Any:
        if mode:
            raise DistillError(
                "This model is folded for running: its BatchNorms and branches are merged into single kernels, and training it "
                "would train another, worse model. Train the student it was made from and fold again."
            )
        return super().train(mode)  # type: ignore[misc]

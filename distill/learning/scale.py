"""The bound of a learned logit scale: at most 100 (CLIP, arXiv 2103.00020, section 2.5).

The parameter is clamped after the optimizer's step, as open_clip does. A clamp in the forward pass would stop its gradient
for ever once it is there, and most published checkpoints, so every student that inherits from one, begin there.
"""

import math

import torch
from torch import Tensor

HIGHEST_SCALE = 100.0


@torch.no_grad()
def clamp_scale(log_scale: Tensor) -> None:
    """Bring the logarithm of a scale, [], down to that of `HIGHEST_SCALE` in place, where it is above."""
    log_scale.clamp_(max=math.log(HIGHEST_SCALE))

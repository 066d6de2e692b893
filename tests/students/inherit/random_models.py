"""Models of which nothing is as it was initialised, so that what a slice loses or mixes up shows."""

import torch

from distill.core.clip.model import build_clip


def model_of(cfg, seed):
    """A model whose every parameter and statistic is random."""
    model = build_clip(cfg, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model

"""Convolutional towers with their weights in channels-last order, in which kernels of CPUs and GPUs read neighbours as neighbours.

What it gains stands in docs/benchmarks.md. Images may stay as they are: a convolution whose weight is in this order gives its
result in it, and the tower goes on so.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

FEW = 16  # input channels with which a strided 1 x 1 convolution in this order writes past its memory (torch 2.13, CPU)
PATCHES = 1  # a ViT's only convolution cuts patches; its order gains nothing


@contextlib.contextmanager
def channels_last(tower: "nn.Module") -> Iterator[bool]:
    """Inside, the convolutions of `tower` have their weights in channels-last order; values stay. Yields whether any has.

    Strided 1 x 1 convolutions of few channels keep their order: torch's CPU kernel for them overwrites memory. A tower with no
    more convolutions than a ViT is left alone.
    """
    import torch

    chosen = [
        module.weight for module in tower.modules() if isinstance(module, torch.nn.Conv2d) and not _breaks(module)
    ]
    chosen = chosen if len(chosen) > PATCHES else []
    for weight in chosen:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        yield bool(chosen)
    finally:
        for weight in chosen:
            weight.data = weight.data.contiguous()


def _breaks(module: "nn.Conv2d") -> bool:
    return max(module.kernel_size) == 1 and max(module.stride) > 1 and module.in_channels < FEW

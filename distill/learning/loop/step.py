"""One optimizer step. Nothing here makes the host wait for the device, so that nothing here may look at a value."""

from typing import Any

import torch
from torch import Tensor

from distill.learning.loop.replicas import Replicas
from distill.learning.loop.shards import Shards
from distill.learning.settings import OptimSettings


def take_step(
    held: Replicas | Shards, inputs: tuple[Any, ...], optim: OptimSettings
) -> tuple[dict[str, Tensor], Tensor]:
    """Take one optimizer step on a batch. Returns the named losses and the gradient's norm before clipping."""
    held.optimizer.zero_grad()
    if optim.accumulate == 1:
        losses = _gradient(held, inputs, 1)
    else:
        *before, last = held.task.parts(inputs, optim.accumulate)
        found = []
        for part in before:
            with held.unfinished():  # gradients are summed over the processes once a step
                found.append(_gradient(held, part, optim.accumulate))
        found.append(_gradient(held, last, optim.accumulate))
        losses = {name: torch.stack([each[name].detach() for each in found]).mean(0) for name in found[0]}
    held.task.drop_gradients()
    norm = held.clip(optim.clip_norm)
    held.optimizer.step()
    return losses, norm


def _gradient(held: Replicas | Shards, inputs: tuple[Any, ...], parts: int) -> dict[str, Tensor]:
    """Add the gradient of one of so many parts of a batch, divided by their number. Returns its named losses."""
    with held.autocast():
        losses: dict[str, Tensor] = held.module(*inputs)
    held.backward(losses["loss"] if parts == 1 else losses["loss"] / parts)
    return losses

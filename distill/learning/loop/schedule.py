"""Which parameters learn how fast, and when."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from distill.learning.settings import OptimSettings


def learning_rate(step: int, optim: OptimSettings) -> float:
    """The rate of 0-based `step`: linear warm-up over warmup_steps, then cosine from lr to lr_floor at the end."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    share = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.lr_floor + (optim.lr - optim.lr_floor) * 0.5 * (1 + math.cos(math.pi * share))


def parameter_groups(
    task: nn.Module, weight_decay: float, factor: Callable[[str], float] = lambda _: 1.0
) -> list[dict[str, Any]]:
    """Weights and embeddings decay; gains, biases and scales (fewer than two axes) do not.

    Args:
        task: whose parameters they are.
        weight_decay: of those that decay.
        factor: from a parameter's name to what the learning rate is multiplied by for it.

    Returns:
        One group per kind and factor: params, names (in the same order), weight_decay, factor.
    """
    trainable = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
    factors = sorted({factor(name) for name, _ in trainable} or {1.0}, reverse=True)
    groups = []
    for share in factors:
        for decay, wide in ((weight_decay, True), (0.0, False)):
            chosen = [(name, p) for name, p in trainable if factor(name) == share and (p.ndim >= 2) == wide]
            names, parameters = [name for name, _ in chosen], [p for _, p in chosen]
            groups.append({"params": parameters, "names": names, "weight_decay": decay, "factor": share})
    return groups

"""Losses and gradient norms that stay on the device until somebody asks for them.

Reading a number from a GPU makes the host wait until all the work before it is done, and the GPU then waits for the host.
So the loop keeps these scalars where they are and reads them together, at logged steps and before a checkpoint is written.
A step that went wrong is found then, not at once. Until then the weights may be spoilt in memory; nothing on disk is, and
the message names the first step that was wrong and its samples.
"""

import math
from typing import TYPE_CHECKING

import torch

from distill.core.errors import LossError

if TYPE_CHECKING:
    from torch import Tensor


class Unread:
    """The steps since the last reading.

    Args:
        overflows: whether a gradient may overflow, because a GradScaler then leaves out the step (fp16).
    """

    def __init__(self, overflows: bool) -> None:
        self._overflows = overflows
        self._steps: list[tuple[int, list[str]]] = []
        self._values: list[Tensor] = []
        self._sum, self._count = 0.0, 0

    def note(self, step: int, keys: list[str], loss: "Tensor", norm: "Tensor") -> None:
        """Keep what 0-based `step` on the samples `keys` came to: its loss [] and its gradient's norm [] before clipping."""
        self._steps.append((step, keys))
        self._values += [loss.detach(), norm.detach()]

    @property
    def waiting(self) -> bool:
        """Whether a step was noted since the last reading."""
        return bool(self._steps)

    def read(self) -> float:
        """The gradient norm of the last step noted, by one transfer from the device.

        Raises LossError for the first step whose loss or gradient was not finite; names the step and its samples.
        """
        values = torch.stack([value.float() for value in self._values]).tolist()
        steps, self._steps, self._values = self._steps, [], []
        for (step, keys), loss, norm in zip(steps, values[::2], values[1::2], strict=True):
            if not math.isfinite(loss):
                raise _not_finite("loss", step, keys)
            if not math.isfinite(norm) and not self._overflows:
                raise _not_finite("gradient", step, keys)
        self._sum, self._count = self._sum + sum(values[::2]), self._count + len(steps)
        return float(values[-1])

    def mean_loss(self) -> float:
        """The mean loss of the steps that were read since this was last asked for; infinite where there are none."""
        mean = self._sum / self._count if self._count else math.inf
        self._sum, self._count = 0.0, 0
        return mean


def _not_finite(what: str, step: int, keys: list[str]) -> LossError:
    return LossError(f"The {what} is not finite at step {step + 1} (samples {', '.join(keys[:4])}, ...).", step + 1)

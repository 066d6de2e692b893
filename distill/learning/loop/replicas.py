"""What the loop trains, where each process holds the whole of it: one process, or several by DistributedDataParallel."""

import contextlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from distill.learning.loop.trainable import Trainable


class Replicas:
    """A task and its optimizer as one process of several trains them, all alike; `Shards` is the other way.

    Args:
        accelerator: of accelerate.
        task: trains in place, on the accelerator's device.
        optimizer: over its parameters.

    Attributes:
        task: is told of steps.
        module: the task as a step calls it.
        optimizer: takes the step.
    """

    def __init__(self, accelerator: Any, task: Trainable, optimizer: Any) -> None:
        self._accelerator = accelerator
        self.task: Trainable = task
        self.module, self.optimizer = accelerator.prepare(task, optimizer)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, towers compute in the precision of the training."""
        context: contextlib.AbstractContextManager[Any] = self._accelerator.autocast()
        return context

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss []."""
        self._accelerator.backward(loss)

    def unfinished(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, a gradient is a part of a step's, which the other processes need not have yet."""
        context: contextlib.AbstractContextManager[Any] = self._accelerator.no_sync(self.module)
        return context

    def clip(self, most: float) -> Tensor:
        """Scale the gradient down to a norm of `most`, if it is above. Returns its norm before, [] on the device."""
        norm: Tensor = self._accelerator.clip_grad_norm_(self.module.parameters(), most)
        return norm

    def whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors laid out as the task's own, each as a whole. Every process calls this."""
        return dict(state)

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state_dict, with the moments as wholes. Every process calls this."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def settle(self) -> None:
        """Nothing: the task that was given is the one that trained."""

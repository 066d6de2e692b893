"""An exponential moving average of what is trained (EMA), kept on the device beside it and judged beside it.

Its first steps forget faster, by min(decay, (1 + t) / (10 + t)) as TensorFlow's does, so that a short training keeps little of the
start. Statistics of BatchNorms are averaged with the weights that they belong to.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distill.learning.loop.shards import local, take_in


class WeightAverage:
    """The average of a module's parameters and buffers.

    Args:
        module: which trains.
        decay: what is left of the average after a step, below 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay, self._module = decay, module
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from another's `state`."""
        for name, value in self.state.items():
            take_in(value, state[name])

    @torch.no_grad()
    def update(self, taken: int) -> None:
        """Take in the module as it is after `taken` steps, 1 for the first. The host does not wait for the device."""
        now = {name: local(value) for name, value in self._module.state_dict().items()}
        own = {name: local(value) for name, value in self.state.items()}
        floats = [name for name, value in own.items() if value.is_floating_point()]
        share = 1 - min(self._decay, (1 + taken) / (10 + taken))
        torch._foreach_lerp_([own[name] for name in floats], [now[name] for name in floats], share)
        for name in own.keys() - set(floats):
            own[name].copy_(now[name])

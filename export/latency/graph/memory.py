"""How many numbers a tower holds at once while it runs: what a runtime that plans its buffers needs beside the weights.

Left out: copies and padding that a runtime makes for itself, and its own code.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import override


def most_alive(model: nn.Module, *inputs: Tensor) -> int:
    """The largest number of bytes of activations that are alive at one moment of a forward pass.

    A tensor is alive from the operation that makes it until the last one that reads it; views share their bytes, and what
    depends on weights alone counts as weights.

    Args:
        model: in eval mode, on the device of `inputs`; the meta device costs nothing.
        inputs: as the model takes them.

    Raises what the model raises on such inputs.
    """
    watch = _Alive(model, inputs)
    with torch.no_grad(), watch:
        model(*inputs)
    return watch.most


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages of tensors that something still refers to, after every operation."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._constant = WeakIdKeyDictionary()
        self._tensors = WeakIdKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self._constant[tensor] = True
        self.most = 0
        self._add(inputs)

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [item for arg in (*args, *(kwargs or {}).values()) for item in _tensors(arg)]
        made = tuple(_tensors(result))
        if all(tensor in self._constant for tensor in given):
            for tensor in made:
                self._constant[tensor] = True
        else:
            self._add(made)
        return result

    def _add(self, tensors: tuple[Tensor, ...]) -> None:
        for tensor in tensors:
            self._tensors[tensor] = True
        held = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in self._tensors}
        self.most = max(self.most, sum(held.values()))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, (list, tuple)) else []

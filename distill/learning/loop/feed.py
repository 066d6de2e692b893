"""From batches in host memory to a step's arguments on the device, the next ones under way while the device works.

On CUDA the copies run in a stream of their own, from pinned memory, without the host waiting for them. On every other
device the arguments are made when they are asked for, unless others must know beforehand that they are there.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

B = TypeVar("B")


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the host does not wait for a copy to CUDA. Other streams do: see `DeviceFeed`."""
    if device.type != "cuda":
        return value.to(device)
    return (value if value.is_pinned() else value.pin_memory()).to(device, non_blocking=True)


class PairBatch(Protocol):
    """b pairs on this rank, see `reinforced_data.sample.Batch`."""

    images: Tensor
    image_ids: Tensor
    texts: Any
    tokens: Tensor | None
    teacher_image: dict[str, Tensor]
    teacher_text: dict[str, Tensor]
    keys: list[str]
    weights: Tensor | None
    unpaired: int


def pair_arguments(tokenize: Callable[[Any], Tensor]) -> Callable[[PairBatch, torch.device], tuple[Any, ...]]:
    """What a `DistillTask` is called with for a batch of pairs: `arguments` of `distill.learning.fit.fit`.

    Args:
        tokenize: n captions -> LongTensor [n, L], for batches that come without tokens.
    """

    def arguments(batch: PairBatch, device: torch.device) -> tuple[Any, ...]:
        # uint8 until here, which is a quarter of the bytes to move; rows in memory order for the convolutions.
        images = to_device(batch.images, device).contiguous().float().div_(255)
        return (
            images,
            to_device(tokenize(batch.texts) if batch.tokens is None else batch.tokens, device),
            {name: to_device(value, device) for name, value in batch.teacher_image.items()},
            {name: to_device(value, device) for name, value in batch.teacher_text.items()},
            None if batch.weights is None else to_device(batch.weights, device),
            to_device(batch.image_ids, device),
            batch.unpaired,
        )

    return arguments


class SideStream:
    """A CUDA stream beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def used(self) -> contextlib.AbstractContextManager[Any]:
        """What is launched inside goes to this stream."""
        return torch.cuda.stream(self._stream)

    def hand_over(self, tensors: Iterable[Tensor]) -> None:
        """The stream that computes goes on when this one is done, and the tensors' memory is not reused before it is."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(computing)


class DeviceFeed(Generic[B]):
    """The batches of `source`, each with its arguments on `device`.

    Args:
        arguments: a batch -> the arguments, their tensors by `to_device`.
        side: None = that of the device, where it has one.
        ahead: make the next batch when `look_ahead` says so on every device.

    Attributes:
        waited_s: seconds for which the host has waited for batches.
    """

    def __init__(
        self,
        source: Iterator[B],
        arguments: Callable[[B, torch.device], tuple[Any, ...]],
        device: torch.device,
        side: SideStream | None = None,
        ahead: bool = False,
    ) -> None:
        self._source, self._arguments, self._device = source, arguments, device
        self._side = SideStream(device) if side is None and device.type == "cuda" else side
        self._ahead = ahead or self._side is not None
        self._coming: tuple[B, tuple[Any, ...]] | None = None
        self._error: Exception | None = None
        self.waited_s = 0.0

    @property
    def failed(self) -> bool:
        """Whether the next batch could not be made, so that `take` will raise."""
        return self._error is not None

    def take(self) -> tuple[B, tuple[Any, ...]]:
        """The next batch and its arguments. Raises StopIteration where the source has no more, and what making the batch raised."""
        if self._error is not None:
            raise self._error
        batch, inputs = self._coming or self._made()
        self._coming = None
        if self._side is not None:
            self._side.hand_over(tensors_in(inputs))
        return batch, inputs

    def look_ahead(self) -> None:
        """Set the next batch on its way. To be called when the step on the one before is launched, not done.

        What goes wrong is kept for `take`, so that `failed` can be told to other processes before they begin the step.
        """
        if self._ahead and self._coming is None and self._error is None:
            try:
                self._coming = self._made()
            except StopIteration:
                pass
            except Exception as error:
                self._error = error

    def _made(self) -> tuple[B, tuple[Any, ...]]:
        before = time.perf_counter()
        batch = next(self._source)
        self.waited_s += time.perf_counter() - before
        with contextlib.nullcontext() if self._side is None else self._side.used():
            return batch, self._arguments(batch, self._device)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a tuple of arguments, those inside its dictionaries, lists and tuples included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(inner)

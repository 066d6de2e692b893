"""What the loop asks of what it trains, and of the batches that it trains on."""

from typing import Any, Protocol

from torch import nn

from distill.core.errors import UsageError


class BatchLike(Protocol):
    """What the loop itself reads of a batch: the keys of this rank's b samples."""

    @property
    def keys(self) -> list[str]:
        """One per sample."""
        ...


class Trainable(nn.Module):
    """What `fit` trains.

    Attributes:
        sharded: whether each process holds a share of it alone (train.sharding): outside of the forward pass of the module that
            has them, parameters are shards then.
    """

    sharded = False

    def before_step(self, step: int) -> None:
        """Called before the forward pass of the 0-based `step`."""

    def drop_gradients(self) -> None:
        """Called when gradients are there, before they are used: set those to None whose parameters are to stay."""

    def parts(self, inputs: tuple[Any, ...], count: int) -> list[tuple[Any, ...]]:
        """The arguments of a batch as those of `count` equal parts of it. Raises UsageError where it does not divide so."""
        raise UsageError("train.accumulate does not go with what trains here: leave it out.")

    def after_step(self) -> None:
        """Called after each optimizer step, for parameters that have bounds."""

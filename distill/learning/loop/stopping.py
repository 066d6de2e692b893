"""Ctrl-C and SIGTERM while a model trains: the step at hand is finished and kept, then training ends.

A cluster sends SIGTERM some seconds before it takes a machine away; nothing that was computed until then needs to be lost. Several
processes end after the same step, whichever of them got the signal, and where one of them cannot go on all end with an error.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

import torch

from distill.core.errors import DistillError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
OTHERS = "Another of the processes that train together"
_ADVICE = "Call again with --resume: training goes on from the newest checkpoint."
_GONE = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Connection refused",
)  # in what gloo says of a process that ended


class Saved(KeyboardInterrupt):
    """Training was asked to end and has ended, with a checkpoint of the last step it took."""


class Stopping:
    """While inside, a signal is noted and nothing else; a second Ctrl-C ends at once, with the checkpoints that are there.

    Outside the main thread, where Python takes no signals, nothing is ever noted.

    Attributes:
        asked: whether a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


class Heard(NamedTuple):
    """Whether any of the processes was asked to end, cannot take the next step, or wants a checkpoint of the steps before it."""

    asked: bool
    failed: bool
    due: bool


class Together:
    """What any of the processes that train together has to say before a step, known to all of them before that step is taken.

    Were one of them to stay away from a step, or from a checkpoint of shards, the others would wait for it inside a collective
    until a timeout. So each says, when its part of a step is launched, whether it was asked to end, whether it has no batch for the
    next one, and whether its clock wants a checkpoint. The sum runs on the host, in a group of its own, beside the device's work
    and what is logged; it is there by the time of the next step.

    Args:
        processes: how many there are.
    """

    def __init__(self, processes: int) -> None:
        self._group: Any = torch.distributed.new_group(backend="gloo") if processes > 1 else None
        self._own = Heard(False, False, False)
        self._begun: tuple[Any, torch.Tensor] | None = None

    @property
    def alone(self) -> bool:
        """Whether there is one process."""
        return self._group is None

    def say(self, asked: bool, failed: bool, due: bool = False) -> None:
        """Called by every process before each step; see `Heard`."""
        self._own = Heard(asked, failed, due)
        if self._group is not None:
            flags = torch.tensor([float(said) for said in self._own])
            with naming_the_dead():
                self._begun = torch.distributed.all_reduce(flags, group=self._group, async_op=True), flags

    def hear(self) -> "Heard":
        """What all said last: the same in every process."""
        if self._begun is None:
            return self._own
        (work, flags), self._begun = self._begun, None
        with naming_the_dead():
            work.wait()
        return Heard(*(said > 0 for said in flags.tolist()))

    def close(self) -> None:
        """Wait until all processes are here. Called by every one after its last step and checkpoint, and not where one failed."""
        if self._group is not None:
            with naming_the_dead():
                torch.distributed.barrier(self._group)
            torch.distributed.destroy_process_group(self._group)


@contextlib.contextmanager
def naming_the_dead(processes: int = 2) -> Iterator[None]:
    """Raise DistillError for what torch raises inside when another process has gone, whose closed connections gloo notices.

    `processes`: that there are; one has no others.
    """
    try:
        yield
    except RuntimeError as error:
        gone = isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in _GONE)
        if processes == 1 or not gone:
            raise
        raise DistillError(f"{OTHERS} has ended in the middle of a step. {_ADVICE}") from error


def another_cannot() -> DistillError:
    """The error of a process whose step another one cannot take."""
    return DistillError(f"{OTHERS} cannot go on, and says why. {_ADVICE}")

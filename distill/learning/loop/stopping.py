"""Ctrl-C and SIGTERM while a model trains: the step at hand is finished and kept, then training ends.

A cluster sends SIGTERM some seconds before it takes a machine away; nothing that was computed until then needs to be lost. Several
processes end after the same step, whichever of them got the signal, and where one of them cannot go on all end with an error.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

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


class Together:
    """What any of the processes that train together has to say before a step, known to all of them before that step is taken.

    Were one of them to stay away from a step, the others would wait for it inside a collective until a timeout. So each says, when
    its part of a step is launched, whether it was asked to end and whether it has no batch for the next one. The sum runs on the
    host, in a group of its own, beside the device's work and what is logged and saved; it is there by the time of the next step.

    Args:
        processes: how many there are.
    """

    def __init__(self, processes: int) -> None:
        self._group: Any = torch.distributed.new_group(backend="gloo") if processes > 1 else None
        self._own = False, False
        self._begun: tuple[Any, torch.Tensor] | None = None

    @property
    def alone(self) -> bool:
        """Whether there is one process."""
        return self._group is None

    def say(self, asked: bool, failed: bool) -> None:
        """Called by every process before each step, with whether it was asked to end and whether it cannot take the step."""
        self._own = asked, failed
        if self._group is not None:
            flags = torch.tensor([float(asked), float(failed)])
            with naming_the_dead():
                self._begun = torch.distributed.all_reduce(flags, group=self._group, async_op=True), flags

    def hear(self) -> tuple[bool, bool]:
        """(whether any process was asked to end, whether any cannot take the step), as all said last."""
        if self._begun is None:
            return self._own
        (work, flags), self._begun = self._begun, None
        with naming_the_dead():
            work.wait()
        asked, failed = flags.tolist()
        return asked > 0, failed > 0

    def close(self) -> None:
        """Wait until all processes are here. Called by every one after its last step and checkpoint, and not where one failed."""
        if self._group is not None:
            with naming_the_dead():
                torch.distributed.barrier(self._group)
            torch.distributed.destroy_process_group(self._group)


@contextlib.contextmanager
def naming_the_dead() -> Iterator[None]:
    """Raise DistillError for what torch raises inside when another process has gone, whose closed connections gloo notices."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and not any(words in str(error) for words in _GONE):
            raise
        raise DistillError(f"{OTHERS} has ended in the middle of a step. {_ADVICE}") from error


def another_cannot() -> DistillError:
    """The error of a process whose step another one cannot take."""
    return DistillError(f"{OTHERS} cannot go on, and says why. {_ADVICE}")

"""Ctrl-C and SIGTERM while a model trains: the step at hand is finished and kept, then training ends.

A cluster sends SIGTERM some seconds before it takes a machine away; nothing that was computed until then needs to be lost. Several
processes end after the same step, whichever of them got the signal.
"""

import signal
import threading
from types import FrameType
from typing import Any

import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    """Whether any of the processes that train together was asked to end: the same answer for all of them at the same step.

    Each step begins a sum over the processes, on the host and in a group of its own, and is answered by the sum of the step
    before, which is there by then. So the device is not waited for, and what comes in a step ends the training a step later.

    Args:
        processes: how many there are. One has its answer at once.
    """

    def __init__(self, processes: int) -> None:
        self._group: Any = torch.distributed.new_group(backend="gloo") if processes > 1 else None
        self._begun: tuple[Any, torch.Tensor] | None = None

    def end(self, asked: bool) -> bool:
        """Called by every process after each step, with whether it was asked to end itself."""
        if self._group is None:
            return asked
        before = self._answer()
        flag = torch.tensor([float(asked)])
        self._begun = torch.distributed.all_reduce(flag, group=self._group, async_op=True), flag
        return before

    def close(self) -> None:
        """Wait until all processes are here. Called by every one after its last step and checkpoint, and not where one failed."""
        if self._group is not None:
            self._answer()
            torch.distributed.barrier(self._group)
            torch.distributed.destroy_process_group(self._group)

    def _answer(self) -> bool:
        if self._begun is None:
            return False
        (work, flag), self._begun = self._begun, None
        work.wait()
        return bool(flag.item())

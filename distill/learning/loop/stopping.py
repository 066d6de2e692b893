"""Ctrl-C and SIGTERM while a model trains: the step at hand is finished and kept, then training ends.

A cluster sends SIGTERM some seconds before it takes a machine away; nothing that was computed until then needs to be lost.
"""

import signal
import threading
from types import FrameType
from typing import Any

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

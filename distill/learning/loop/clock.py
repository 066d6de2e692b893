"""When a checkpoint is due."""

import time

from distill.learning.settings import CheckpointSettings


class CheckpointClock:
    """Says after which steps a checkpoint is due: every so many minutes, or every so many steps; and after the last one."""

    def __init__(self, settings: CheckpointSettings, last: int) -> None:
        self._settings, self._last, self._saved_s = settings, last, time.monotonic()

    def __call__(self, done: int) -> bool:
        """Whether one is due when `done` steps are taken; if so, the minutes count anew."""
        minutes = self._settings.checkpoint_minutes
        if minutes is None:
            return done % self._settings.checkpoint_every == 0 or done == self._last
        due = done == self._last or time.monotonic() - self._saved_s >= 60 * minutes
        if due:
            self._saved_s = time.monotonic()
        return due

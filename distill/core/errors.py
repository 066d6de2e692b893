"""Errors for people. Everything that a user can cause is raised as one of these and printed as one paragraph.

Left out on purpose: programming errors. They stay ordinary exceptions and show their traceback.
"""

import difflib
from collections.abc import Iterable


class DistillError(Exception):
    """The work failed. The message says what was wrong, where, and what to do; the command line exits with status 1.

    Attributes:
        exit_status: of the command line.
        kind: a word for programs: "failed", "usage", "output-exists", "busy", "disk", "memory" or "loss".
    """

    exit_status = 1
    kind = "failed"


class UsageError(DistillError):
    """The call was wrong: an unknown name, key or option, a file that is not there. Exit status 2."""

    exit_status = 2
    kind = "usage"


class DiskError(DistillError):
    """The disk takes no more, or refuses to: full, read-only, no permission, broken."""

    kind = "disk"


class DeviceMemoryError(DistillError):
    """What was asked for does not fit the memory of the device that computes."""

    kind = "memory"


class LossError(DistillError):
    """The loss or its gradient is not finite: training cannot go on by the same settings.

    Attributes:
        step: 1-based, at which it was seen.
    """

    kind = "loss"

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was kept and the command that goes on as its message.

    Attributes:
        exit_status: 130, as a shell counts a program that Ctrl-C has ended; 0 where nothing that was done is lost.
    """

    def __init__(self, message: str, exit_status: int = 130) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class DamagedError(DistillError, ValueError):
    """A file is there and does not hold what it should: cut short, edited, or another file under its name."""


class OutputExistsError(UsageError):
    """`out` exists and neither --resume nor --overwrite was said."""

    kind = "output-exists"


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the names closest to `name`, or lists what is known when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"Known: {shown or 'none'}."

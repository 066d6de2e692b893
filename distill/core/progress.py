"""How long work tells how far it has come: one signature for every function that takes a `progress`."""

from collections.abc import Callable

# progress(done, total, note): `done` of `total` units of work are finished; `note` says what they are, or what comes next.
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, note: str = "") -> None:
    """A `Progress` that says nothing."""

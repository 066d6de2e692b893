"""The command line: parses, calls the verb of the same name, prints its result, sets the exit status. Nothing else.

`app` is what all verbs share (how they end, how a result is printed), `flags` what several have; the verbs lie in a module
per group, which are imported in the order that `distill --help` shows.
"""

import os
import sys

from distill.cli import making, deploying, showing, naming  # isort: skip
from distill.cli.base import app

__all__ = ["app", "deploying", "main", "making", "naming", "showing"]


def main() -> None:
    """Entry point of the console script."""
    _open_what_is_closed()
    app()


def _open_what_is_closed() -> None:
    """Give each of the three streams that the caller has closed (`>&-`, some schedulers) to nowhere.

    Python has None in its place, and the next file that is opened would get its number, and what libraries print there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115

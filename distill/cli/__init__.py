"""The command line: parses, calls the verb of the same name, prints its result, sets the exit status. Nothing else.

`app` is what all verbs share (how they end, how a result is printed), `flags` what several have; the verbs lie in a module
per group, which are imported in the order that `distill --help` shows.
"""

from distill.cli import making, deploying, showing, naming  # isort: skip
from distill.cli.base import app

__all__ = ["app", "deploying", "main", "making", "naming", "showing"]


def main() -> None:
    """Entry point of the console script."""
    app()

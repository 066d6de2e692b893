"""Importing coremltools in a second instead of fourteen, without its warnings, and without what an earlier program left in it."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# coremltools imports these, if they are installed, to offer converters for them: 10 of its 14 seconds.
UNUSED = ("sklearn", "transformers", "tensorflow", "xgboost", "libsvm", "torchao", "torchaudio", "executorch")


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # "import name" raises ImportError at once
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def import_coremltools() -> Any:
    """The module coremltools, imported without the packages that it only probes for."""
    with _hidden(UNUSED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SyntaxWarnings and deprecations at its import
        import coremltools

    return coremltools


def forget_earlier_programs() -> None:
    """Let the next conversion name its operations as a new process would.

    coremltools numbers operations without a name over all programs that a process builds or reads, and starts anew only where a
    conversion ends well. A program that was read to be checked, or a conversion that failed, so changed the names, and with
    them the bytes, of the next file.
    """
    import_coremltools()
    from coremltools.converters.mil.mil import Builder

    Builder.name_count.clear()

"""Importing coremltools in a second instead of fourteen, and without its warnings."""

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

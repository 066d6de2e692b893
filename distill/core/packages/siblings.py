"""Are `teachers`, `students`, `reinforced_data` and `export` this package's own? Their names are common words: another
package, or a folder in the working directory, may be found in their place.
"""

import importlib.util
import sys
from pathlib import Path

NAMES = ("teachers", "students", "reinforced_data", "export")
_HOME = Path(__file__).resolve().parents[3]  # the folder that holds `distill`, and so its siblings


def intruders() -> str:
    """What is found in place of our own packages, in words; "" when all are ours."""
    wrong = []
    for name in NAMES:
        spec = importlib.util.find_spec(name)
        places = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or ""])
        if not any(Path(place).resolve() == _HOME / name for place in places):
            wrong.append(f"{name!r} is found " + (f"at {places[0]!r}" if places else "nowhere"))
    return ", ".join(wrong)


def refuse_intruders() -> None:
    """Raise ImportError, or end a command line with status 2, when one of our packages is hidden by another."""
    found = intruders()
    if not found:
        return
    message = (
        f"distill: {found}, where distill needs its own package (beside {str(_HOME / 'distill')!r}). Work in a folder "
        "without one of that name, rename it, or uninstall the package that brings it."
    )
    if _is_command():
        print(message, file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)


def _is_command() -> bool:
    """Whether Python was started as `distill` or `python -m distill`: a person reads what it prints."""
    started = sys.orig_argv[1:]
    called = "-m" in started and started[started.index("-m") + 1 :][:1] == ["distill"]
    return called or Path(sys.argv[0] if sys.argv else "").stem == "distill"

"""`python guest.py MODULE ARGUMENTS...`: `python -m MODULE` in the Python of another environment, which has none of our packages.

They are found where they lie, and nothing else there is: where they are installed, that folder holds the other Python's
torch and numpy too, which must not be mixed with this one's.
"""

import importlib.machinery
import runpy
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS = ("distill", "teachers", "students", "reinforced_data", "export")


class OursAlone(MetaPathFinder):
    """Finds our top-level packages in ROOT; what lies in them is found by Python itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of one of our packages, None for everything else."""
        return importlib.machinery.PathFinder.find_spec(name, [str(ROOT)]) if name in OURS else None


if __name__ == "__main__":
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [place for place in sys.path if place != here]  # its neighbours' names are common words
    sys.meta_path.insert(0, OursAlone())
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

"""Run by an environment's own Python, with nothing of ours importable: which packages are there, and do they import?

The arguments are modules to import. Prints one JSON object: {"python", "versions": {package: version}, "failed": {module: why}}.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import sys


def main() -> None:
    """Entry point."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what packages print while they are imported
    failed = {}
    for module in sys.argv[1:]:
        try:
            importlib.import_module(module)
        except Exception as error:  # a package may raise anything at import
            failed[module] = f"{type(error).__name__}: {error}"
    versions = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    json.dump({"python": platform.python_version(), "versions": versions, "failed": failed}, answer)
    answer.flush()
    os._exit(0)  # some packages crash in their own teardown


if __name__ == "__main__":
    main()

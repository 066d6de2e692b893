"""The file names of a reinforced set and of a selection: here and nowhere else, importable without anything heavy.

A set's folder holds plan.json (written first), shard-*.arrow and manifest.json (written last); a selection's the other two.
"""

PLAN_FILE, MANIFEST_FILE = "plan.json", "manifest.json"
SET_FOLDER = "reinforced"  # of the set that a run makes, inside the run
SHARD_GLOB = "shard-*.arrow"
SELECTION_FILE, SELECTION_ROWS_FILE = "selection.json", "selection.arrow"


def shard_name(number: int) -> str:
    """File name of the shard that holds source samples number * shard_size and following."""
    return f"shard-{number:05d}.arrow"

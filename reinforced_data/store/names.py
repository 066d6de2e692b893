"""The file names of a reinforced set and of a selection: here and nowhere else, importable without anything heavy.

A set's folder holds plan.json (written first), shard-*.arrow, of very many shards shards.arrow, and manifest.json (written last); a
selection's the other two.
"""

PLAN_FILE, MANIFEST_FILE = "plan.json", "manifest.json"
SET_FOLDER = "reinforced"  # of the set that a run makes, inside the run
SHARD_GLOB = "shard-*.arrow"
SHARD_TABLE = "shards.arrow"  # what is known of each shard, where they are too many for the manifest
SELECTION_FILE, SELECTION_ROWS_FILE = "selection.json", "selection.arrow"


FACTS_GLOB = "shard-*.json"  # beside the shards of an unfinished set, see `reinforced_data.labelling.finished`


def shard_name(number: int, count: int) -> str:
    """File name of the shard that holds source samples number * shard_size and following.

    As many digits as the last of `count` shards needs, five at least, so that names sort by number.
    """
    return f"shard-{number:0{max(5, len(str(count - 1)))}d}.arrow"


def facts_name(shard: str) -> str:
    """File name of what is kept of a shard of this name until the set is finished."""
    return shard.removesuffix(".arrow") + ".json"

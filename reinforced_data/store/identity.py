"""What is kept beside a set (a selection, a verification, measured captions) says which set it is of; this is the rule.

A set that grows (`--extend`) is another set afterwards, so that what was kept of it before is stale and is made anew.
"""

from collections.abc import Mapping
from typing import Any

from distill.core.atomic import sha256_json
from reinforced_data.store.manifest import Manifest

SET_KEY = "set_sha256"  # in every such record


def set_identity(manifest: Manifest) -> str:
    """The identity of a finished set: SHA-256 of its manifest, which holds the hash of every shard."""
    return sha256_json(manifest.model_dump(mode="json"))


def fresh(record: Mapping[str, Any], identity: str) -> bool:
    """Whether `record` was made of the set with this identity."""
    return record.get(SET_KEY) == identity

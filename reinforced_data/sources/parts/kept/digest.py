"""Hashes of lists that are not held."""

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any


def sha256_json_list(values: Iterable[Any]) -> str:
    """What `distill.core.atomic.sha256_json` says of the list of these values."""
    digest, waiting, comma = hashlib.sha256(b"["), iter(values), b""
    while some := list(islice(waiting, 1 << 12)):
        digest.update(comma + json.dumps(some, sort_keys=True, separators=(",", ":"))[1:-1].encode())
        comma = b","
    digest.update(b"]")
    return digest.hexdigest()

"""Rows that phones have finished, a line of JSON each: a cable that was pulled costs the row at work and no other."""

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.artifacts.record import LatencyProfile

JOURNAL = "measured-on-phones.jsonl"  # in the folder that holds the exported folders


def finished(folder: Path, key: dict[str, Any]) -> LatencyProfile | None:
    """The row of `key`, where it has been finished before."""
    with contextlib.suppress(OSError):
        for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that a power cut left half
                record = json.loads(line)
                if record["key"] == key:
                    return LatencyProfile(**record["row"])
    return None


def add(folder: Path, key: dict[str, Any], row: LatencyProfile) -> None:
    """Add a finished row, which is on the disk when this returns."""
    line = json.dumps({"key": key, "row": asdict(row)}) + "\n"
    with open(folder / JOURNAL, "a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())

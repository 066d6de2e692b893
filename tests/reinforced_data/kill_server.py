"""Run `reinforce` again and again in forked children that die at random events, until one child lives to the end.

Called by test_write with an output folder and the number of kills to try. Forking from one process that has torch
imported (and has run none of it) makes a kill cost milliseconds. Prints a JSON object.
"""

import json
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pyarrow.parquet as pq
import torch

from reinforced_data.read import ReinforcedData
from reinforced_data.write import reinforce
from tests.reinforced_data.stubs import ListSource, StubTeacher, samples, two_teachers
from tests.reinforced_data.test_write import BASE


def die_at(event: int) -> None:
    """From now on, exit at the given event: teacher calls, and either side of writes, syncs and renames."""
    left = [event]

    def tick() -> None:
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)

    def wrap(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **options):
            tick()
            result = real(*arguments, **options)
            tick()
            return result

        setattr(owner, name, call)

    wrap(os, "replace")
    wrap(os, "fsync")
    wrap(pq.ParquetWriter, "write_table")
    wrap(pq.ParquetWriter, "close")
    wrap(StubTeacher, "encode_image")
    wrap(StubTeacher, "encode_text")


def child(out: Path, event: int | None) -> None:
    torch.set_num_threads(1)
    if event is not None:
        die_at(event)
    reinforce(ListSource(samples(23)), two_teachers(), out, **{**BASE, "resume": True})
    os._exit(0)


def main() -> None:
    out, kills = Path(sys.argv[1]), int(sys.argv[2])
    rng, killed, torn = random.Random(0), 0, 0
    for attempt in range(kills + 1):
        # Mostly early deaths, so that one folder sees many; the last attempt lives.
        event = None if attempt == kills else rng.choice((0, 1, 3, 8, 20, 30, 40))
        pid = os.fork()
        if pid == 0:
            try:
                child(out, event)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 9:
            killed += 1
        elif status != 0:
            sys.exit(f"a child failed with status {status}")
        if (out / "manifest.json").exists():
            try:
                ReinforcedData(out)
            except Exception:
                torn += 1
            if status == 9 and killed < kills:  # died after the manifest was in place: take it away and go on
                pass
    print(json.dumps({"killed": killed, "torn_manifest": torn}))


if __name__ == "__main__":
    main()

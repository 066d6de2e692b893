"""Run `reinforce` again and again in forked children that die at random events, until a set is whole; then begin anew.

Called by test_write with an output folder and the number of kills. Forking from one process that has torch
imported (and has run none of it) makes a kill cost milliseconds. Prints a JSON object.
"""

import json
import os
import random
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from distill.core.atomic import sha256_file
from reinforced_data import store
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
    wrap(store, "_record_batch")
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
    rng, killed, results = random.Random(0), 0, []
    while killed < kills or not results:
        # Mostly early deaths, so that one folder sees many; when all are done, one child lives.
        event = rng.choice((0, 1, 3, 8, 20, 40, 60)) if killed < kills else None
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
        if (out / "manifest.json").exists():  # whole, whether the child died after writing it or lived
            ReinforcedData(out)
            results.append({file.name: sha256_file(file) for file in sorted(out.iterdir())})
            shutil.rmtree(out)
    print(json.dumps({"killed": killed, "results": results}))


if __name__ == "__main__":
    main()

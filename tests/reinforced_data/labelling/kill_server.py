"""Run `reinforce` again and again in forked children that die at random, until a set is whole; then begin anew.

Half of the deaths come at random events (either side of a write, a sync, a rename, a call of a model), half by SIGKILL
from outside, when the output folder has changed a random number of times.

Called by test_kills with an output folder, the number of kills and the number of processes that share the work. Forking
from one process that has torch imported (and has run none of it) makes a kill cost milliseconds. Prints a JSON object.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch

from distill.core.atomic import sha256_file
from distill.core.existing import Existing
from reinforced_data.labelling.plan import make_plan
from reinforced_data.labelling.reinforce import work
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.store import shard_file
from reinforced_data.store.folder import open_output
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.labelling.test_reinforce import BASE
from tests.reinforced_data.stubs import ListSource, StubCaptioner, StubTeacher, samples, two_teachers

SETTINGS = ReinforceSettings(**{key: value for key, value in BASE.items() if key != "seed"} | {"embed_dtype": "int8"})


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
    wrap(shard_file, "_record_batch")
    wrap(StubTeacher, "encode_image")
    wrap(StubTeacher, "encode_text")
    wrap(StubCaptioner, "caption")


def everything() -> dict:
    """What is reinforced: teachers of two sizes and kinds, a captioner, three views, int8."""
    return {"source": ListSource(samples(23)), "teachers": two_teachers(), "captioners": [StubCaptioner()]}


def child(out: Path, event: int | None, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    given = everything()
    plan = make_plan(**given, settings=SETTINGS, seed=BASE["seed"])
    if event is not None:
        die_at(event)
    if rank < 0:
        open_output(out, plan, Existing.RESUME)
    else:
        work(given["source"], given["teachers"], out, captioners=given["captioners"], rank=rank, world=world)
    os._exit(0)


def fork(*arguments) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            child(*arguments)
        finally:
            os._exit(1)
    return pid


def listing(folder: Path) -> list[str]:
    """Names in the folder, sorted; none when it is not there."""
    return sorted(os.listdir(folder)) if folder.exists() else []


def main() -> None:
    out, kills, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng, killed, results = random.Random(0), 0, []

    def event() -> int | None:
        # Mostly early deaths, so that one folder sees many; when all are done, children live.
        return rng.choice((0, 1, 3, 8, 20, 40, 60)) if killed < kills else None

    def end(pids: list[int]) -> list[int]:
        """Exit statuses of the children; in half of the rounds one of them is killed when the folder has changed so many times."""
        ended: dict[int, int] = {}
        if killed < kills and rng.random() < 0.5:
            victim, changes, names = rng.choice(pids), rng.randrange(4), listing(out)
            while changes and victim not in ended:
                now = listing(out)
                changes, names = changes - (now != names), now
                pid, status = os.waitpid(victim, os.WNOHANG)
                if pid:
                    ended[victim] = status
                time.sleep(0.001)
            if victim not in ended:
                os.kill(victim, signal.SIGKILL)
        ended |= {pid: os.waitpid(pid, 0)[1] for pid in pids if pid not in ended}
        return [os.waitstatus_to_exitcode(ended[pid]) for pid in pids]

    while killed < kills or not results:
        world = rng.choice([count for count in (1, 2, 4) if count <= most])  # a rerun may have another number
        for stage in ([-1], list(range(world))):  # the first process opens the output, then all work
            pids = [fork(out, event(), rank, world) for rank in stage]
            statuses = [9 if status == -9 else status for status in end(pids)]
            killed += statuses.count(9)
            if any(status not in (0, 9) for status in statuses):
                sys.exit(f"a child failed with status {statuses}")
            if 9 in statuses:
                break
        if (out / "manifest.json").exists():  # whole, whether the child died after writing it or lived
            ReinforcedData(out)
            results.append({file.name: sha256_file(file) for file in sorted(out.iterdir())})
            shutil.rmtree(out)
    print(json.dumps({"killed": killed, "results": results}))


if __name__ == "__main__":
    main()

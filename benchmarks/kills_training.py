"""Kill trainings at random moments and go on, by as many processes or by others; compare weights and samples with a training left alone.

    python -m benchmarks.kills_training --out OUT [--kills 30] [--steps 60] [--seed 0]

The training loop on a stored set of drawings with a small student, in real processes (gloo), killed together by SIGKILL between the first
step of each life and three seconds after it. "same": two processes in every life; the weights must be bit-identical with those of two that
nobody kills. "changed": one, two or four, drawn anew after each kill; every step of every life must see the samples of that step, in
order, and the weights be near. Half of the kills each. Exit status 1 where anything differs.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORLDS, BATCH, SPREAD_S = (1, 2, 4), 16, 3.0


def train(place: str, data: str, number: int, world: int, rank: int, port: int, steps: int) -> None:
    """One process of the life `number`: goes on from the newest checkpoint in `place`, and writes the samples of each step that it takes."""
    os.setsid()
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    import torch

    from distill.learning.fit import fit
    from distill.learning.loop.feed import pair_arguments
    from distill.learning.objective import Objective
    from distill.learning.settings import CheckpointSettings, OptimSettings
    from distill.learning.task import DistillTask
    from reinforced_data.training.caption_policy import CaptionPolicy
    from reinforced_data.training.loader import batches
    from reinforced_data.training.pairs import StoredPairs
    from students.spec import STUDENTS
    from students.student import build_student

    torch.set_num_threads(1)
    spec, folder = STUDENTS.get("nano"), Path(place)
    student = build_student(spec, 0)
    pairs = StoredPairs(Path(data), spec.image_size, CaptionPolicy("any", {}, False), "exact")
    width = int(spec.model_cfg["embed_dim"])
    task = DistillTask(student, Objective("small-batch", width, pairs.teacher_facts), pairs.teacher_facts)

    def source(first: int, last: int) -> Iterator[Any]:
        drawn = batches(pairs, batch_size=BATCH, seed=0, first_step=first, last_step=last, rank=rank, world=world)
        for step, batch in enumerate(drawn, first):
            line = json.dumps(
                {"step": step, "world": world, "samples": list(zip(batch.keys, batch.texts, strict=True))}
            )
            with open(folder / f"samples-{number}-{rank}.jsonl", "a", encoding="utf-8") as file:
                file.write(line + "\n")
            yield batch

    fit(
        task, source, pair_arguments(student.tokenize), folder / "checkpoints", folder / "metrics.jsonl",
        optim=OptimSettings(steps=steps, device="cpu", log_every=5), seed=0,
        checkpointing=CheckpointSettings(checkpoint_every=4),
    )  # fmt: skip


def life(place: Path, data: Path, world: int, steps: int, kill_after: float | None) -> bool:
    """Run one life. Returns whether it was killed: so many seconds after its first new step, None = never."""
    context, number = multiprocessing.get_context("forkserver"), len(list(place.glob("samples-*-0.jsonl")))
    context.set_forkserver_preload(["tests.forks_preload"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=train, args=(str(place), str(data), number, world, rank, port, steps))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    while kill_after is not None and len(list(place.glob(f"samples-{number}-*"))) < world:
        if not any(process.is_alive() for process in processes):
            break
        time.sleep(0.005)
    if kill_after is not None:
        time.sleep(kill_after)
    alive = [process for process in processes if process.is_alive()] if kill_after is not None else []
    for process in alive:
        os.kill(process.pid or 0, signal.SIGKILL)
    for process in processes:
        process.join()
    if not alive and any(process.exitcode for process in processes):
        sys.exit(f"a training by {world} failed: {[process.exitcode for process in processes]}")
    return bool(alive)


def samples(place: Path) -> dict[int, set[str]]:
    """Step -> the global batches that it saw in any life whose every rank wrote it: keys and captions in order, as JSON."""
    parts: dict[tuple[str, int], dict[int, Any]] = {}
    worlds: dict[str, int] = {}
    for file in place.glob("samples-*.jsonl"):
        _, number, rank = file.stem.split("-")
        for text in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(text)
            worlds[number] = row["world"]
            parts.setdefault((number, row["step"]), {})[int(rank)] = row["samples"]
    found: dict[int, set[str]] = {}
    for (number, step), ranks in parts.items():
        if len(ranks) == worlds[number]:
            whole = [sample for rank in sorted(ranks) for sample in ranks[rank]]
            found.setdefault(step, set()).add(json.dumps(whole))
    return found


def weights(place: Path) -> dict[str, Any]:
    """What the last checkpoint holds."""
    from distill.learning import checkpoint

    found = checkpoint.latest(place / "checkpoints")
    assert found is not None
    return checkpoint.read_task(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from reinforced_data.labelling.reinforce import reinforce
    from reinforced_data.labelling.settings import ReinforceSettings
    from reinforced_data.source import open_source
    from tests.reinforced_data.stubs import StubTeacher

    shutil.rmtree(given.out, ignore_errors=True)
    teachers: Any = [StubTeacher("a", width=24), StubTeacher("b", width=40, seed=1)]
    data = given.out / "set"
    reinforce(
        open_source("rendered:train=96", "train"), teachers, data, ReinforceSettings(shard_size=32, batch_size=32)
    )
    rng, wrong = random.Random(given.seed), 0
    places = {name: given.out / name for name in ("alone", "same", "changed")}
    for place in places.values():
        place.mkdir(parents=True)
    life(places["alone"], data, 2, given.steps, None)
    for name in ("same", "changed"):
        kills, lives = 0, []
        while kills < given.kills // 2:
            lives.append(2 if name == "same" else rng.choice(WORLDS))
            if not life(places[name], data, lives[-1], given.steps, rng.uniform(0, SPREAD_S)):
                shutil.rmtree(places[name] / "checkpoints")  # it came to its end: begin again
                continue
            kills += 1
        life(places[name], data, 2, given.steps, None)
        alone, other = weights(places["alone"]), weights(places[name])
        apart = max(float((alone[key].float() - other[key].float()).abs().max()) for key in alone)
        first = [
            json.loads(file.read_text().splitlines()[0])["step"]
            for file in sorted(places[name].glob("samples-*-0.jsonl"))
        ]
        seen, expected = samples(places[name]), samples(places["alone"])
        steps_wrong = [step for step, wholes in seen.items() if wholes != expected[step]]
        print(
            f"{name}: {kills} kills, processes {lives}, first steps {sorted(first)}; weights differ by {apart:.1e}; steps with other samples: {steps_wrong}"
        )
        wrong += bool(steps_wrong) or (apart > 0 if name == "same" else apart > 1e-3)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

"""Processes that hold a share each (FSDP2) train what one process trains that holds everything: weights, moments, norms, averages.

Gloo on CPUs, worlds of two and four. Files of checkpoints are compared, which have one format whoever wrote them.
"""

import itertools
import json
import multiprocessing
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks import sharded_memory
from distill.core.errors import UsageError
from distill.learning import checkpoint
from distill.learning import fit as fits
from distill.learning.fit import fit
from distill.learning.freezing import TextFreeze
from distill.learning.loop import clock, feed, log, shards
from distill.learning.objective import Objective
from distill.learning.settings import CheckpointSettings, OptimSettings
from distill.learning.task import DistillTask
from tests.distill.learning.loop.test_speed import Small
from tests.distill.learning.test_losses import facts

STEPS, BATCH = 3, 8
# What of the settings and of the task differs in each case.
CASES = {
    "plain": ({}, {}),
    "float32": ({"steps": 1}, {}),
    "half": ({"steps": 1, "precision": "bf16", "recompute": True}, {}),
    "minutes": ({}, {}),
    "recompute": ({"recompute": True}, {}),
    "chunk": ({}, {"chunk": 1}),
    "frozen": ({}, {"freeze": TextFreeze(2, "own")}),
    "stored": ({}, {"freeze": TextFreeze(2, "stored")}),
    "accumulate": ({"accumulate": 2}, {}),
}

SINGLE = ("float32", "half")  # every other case is in float64


def task_of(case):
    torch.manual_seed(0)
    objective = Objective(dict.fromkeys(("affinity", "feature", "interactive", "contrastive"), 1.0), 6, facts())
    vit = Small("vit_tiny_patch16_224", width=6, img_size=32, embed_dim=24, depth=2, num_heads=2)
    task = DistillTask(vit, objective, facts(), **CASES[case][1])
    return task if case in SINGLE else task.double()


def batches_of(rank, world, dtype):
    def source(first, last):
        rows = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        for step in range(first, last):
            g = torch.Generator().manual_seed(step)
            images, texts = torch.rand(BATCH, 3, 32, 32, generator=g), torch.randint(1, 32, (BATCH, 8), generator=g)
            u, v = (nn.functional.normalize(torch.randn(BATCH, 6, generator=g), dim=-1) for _ in range(2))
            given = images.to(dtype)[rows], texts[rows], {"t": u.to(dtype)[rows]}, {"t": v.to(dtype)[rows]}
            yield SimpleNamespace(given=given, keys=[str(step)] * len(given[0]))

    return source


def train(out, case, rank=0, world=1, **more):
    task = task_of(case)
    out.mkdir(exist_ok=True, parents=True)
    settings = {"lr": 1e-2, "warmup_steps": 1, "clip_norm": 0.5, "device": "cpu", "log_every": 1, "ema": 0.9}
    fit(
        task, batches_of(rank, world, torch.float32 if case in SINGLE else torch.float64), lambda batch, _: batch.given,
        out / "checkpoints", out / "metrics.jsonl", optim=OptimSettings(**{**settings, "steps": STEPS, **CASES[case][0], **more}),
        checkpointing=CheckpointSettings(
            checkpoint_every=2 if case == "plain" else STEPS, keep_checkpoints=9, checkpoint_minutes=1 if case == "minutes" else None,
        ), seed=0,
    )  # fmt: skip
    return task


def worker(rank, world, port, folder, cases):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    made, folder = [], Path(folder)
    real = fits.Shards
    fits.Shards = lambda *given: made.append(real(*given)) or made[-1]
    clock.time = ticking(60 if rank == 0 else 0)  # of checkpoints by minutes, which the first process decides
    for case in cases:
        task = train(folder / case, case, rank, world, sharding="full")
        if case == "plain":
            held = [
                *made[0].task.parameters(),
                *(m for state in made[0].optimizer.state.values() for m in state.values()),
            ]
            kept = sum(shards.local(value).nbytes for value in held)
            (folder / f"bytes{rank}.json").write_text(json.dumps(kept))
            torch.save(task.state_dict(), folder / f"settled{rank}.pt")
    if world == 2:
        assert len(made) == len(cases)
        train(folder / "from one", "plain", rank, world, sharding="full")
        # A wait for a batch takes this process so many seconds, and every row comes four after the one before.
        feed.time, log.time = ticking(2 * rank), ticking(4)
        train(folder / "replicas", "accumulate", rank, world)
        if rank == 0:
            begin_from(folder / "plain", folder / "from shards")
        torch.distributed.barrier()
        train(folder / "from shards", "plain", rank, world)
        assert len(made) == len(cases) + 1
    torch.distributed.destroy_process_group()


def ticking(seconds):
    """In place of the module `time`: each reading is so many seconds after the one before."""
    readings = itertools.count(0, seconds) if seconds else itertools.repeat(0)
    return SimpleNamespace(perf_counter=lambda: next(readings), monotonic=lambda: next(readings))


def begin_from(run, other):
    """Another run that goes on from the second step of one."""
    shutil.copytree(run / "checkpoints" / "step-00000002", other / "checkpoints" / "step-00000002")


def start(world, folder, cases):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forks_preload"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=worker, args=(rank, world, port, str(folder), cases)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of all that was trained: by one process that holds everything, by two and by four that hold a share."""
    out = tmp_path_factory.mktemp("shards")
    train(out / "1" / "plain", "plain")
    begin_from(out / "1" / "plain", out / "2" / "from one")
    processes = [*start(4, out / "4", ["plain"]), *start(2, out / "2", list(CASES))]
    for case in CASES:
        if case not in (
            "plain",
            "minutes",
            "chunk",
            "recompute",
            "accumulate",
        ):  # which change nothing, or what each process does
            train(out / "1" / case, case)
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * 6
    begin_from(out / "2" / "plain", out / "1" / "from shards")
    train(out / "1" / "from shards", "plain")
    return out


def state_of(run, step=STEPS):
    """Everything in a checkpoint, by name."""
    found = checkpoint.Checkpoint(run / "checkpoints" / f"step-{step:08d}", step)
    moments = {f"{name} {key}": m for name, state in checkpoint.read_moments(found).items() for key, m in state.items()}
    return checkpoint.read_task(found), checkpoint.read_average(found), moments


def assert_close(one, other, near):
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine
        for name, value in mine.items():
            assert value.dtype == theirs[name].dtype
            assert value.shape == theirs[name].shape
            bound = near * value.abs().max() + near / 1000
            assert (value - theirs[name]).abs().max() <= bound, name


SAME = {case: f"1/{case}" for case in ("plain", "frozen", "stored")} | {
    "minutes": "1/plain",
    "chunk": "1/plain",
    "recompute": "1/plain",
}
PAIRS = [(f"2/{case}", same) for case, same in SAME.items()] + [
    ("4/plain", "1/plain"), ("2/accumulate", "2/replicas"),
    ("2/from one", "1/plain"), ("2/from shards", "1/plain"), ("1/from shards", "1/plain"),
]  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize(("sharded", "whole"), PAIRS)
def test_shards_train_what_one_process_trains(trained, sharded, whole):
    """Weights, average, moments; a checkpoint of one, of two and of two with all of it each is gone on from by the others."""
    assert_close(state_of(trained / sharded), state_of(trained / whole), 1e-10)
    rows = [
        [json.loads(line) for line in (trained / run / "metrics.jsonl").read_text().splitlines()]
        for run in (sharded, whole)
    ]
    for mine, theirs in zip(rows[0], rows[1][-len(rows[0]) :], strict=True):
        for key in ("step", "loss", "grad_norm", "affinity", "lr"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-6), key  # a row is in float32
    assert rows[0][-1]["grad_norm"] > 0.5  # the gradient was scaled down


@pytest.mark.process
def test_the_first_process_says_when_a_checkpoint_is_due(trained):
    """Every process takes part in it; by the second one's clock no minute passes."""
    found = sorted(path.name for path in (trained / "2" / "minutes" / "checkpoints").iterdir())
    assert found == [f"step-{step:08d}" for step in range(1, STEPS + 1)]


@pytest.mark.process
def test_speeds_are_those_of_all_processes(trained):
    """Counted: eight samples a step of two parts; before the first row two batches were waited for, since one is made ahead, by
    the second process alone."""
    rows = [json.loads(line) for line in (trained / "2" / "replicas" / "metrics.jsonl").read_text().splitlines()]
    assert [row["samples_per_s"] for row in rows] == [BATCH / 4] * STEPS
    assert [row["data_wait_share"] for row in rows] == [4 / 2 / 4, 2 / 2 / 4, 0]


@pytest.mark.process
def test_gradients_in_float32(trained):
    """AdamW's first moments are its gradients."""
    one, two = ({k: m for k, m in state_of(trained / n / "float32", 1)[2].items() if "exp_avg" in k} for n in "12")
    assert_close([one], [two], 1e-5)


@pytest.mark.process
def test_gradients_in_half_precision(trained):
    """Rounded by autocast in every process as in one, and no weight cast at the start of a step is kept for another use of it."""
    one, two, full = (
        {k: m for k, m in state_of(trained / run, 1)[2].items() if "exp_avg" in k}
        for run in ("1/half", "2/half", "1/float32")
    )
    assert_close([one], [two], 0.05)
    with pytest.raises(AssertionError):
        assert_close([one], [full], 1e-5)
    assert (
        shards.Shards.autocast(SimpleNamespace(_accelerator=SimpleNamespace(autocast=lambda how: how))).cache_enabled
        is False
    )


@pytest.mark.process
def test_the_task_that_was_given_ends_as_the_checkpoint_in_every_process(trained):
    want = state_of(trained / "2" / "plain")[0]
    for rank in range(2):
        got = torch.load(trained / "2" / f"settled{rank}.pt", weights_only=True)
        assert got.keys() == want.keys()
        assert all(type(got[name]) is torch.Tensor and torch.equal(got[name], want[name]) for name in want)


@pytest.mark.process
def test_a_process_holds_its_share_of_weights_and_moments(trained):
    state, _, moments = state_of(trained / "1" / "plain")
    whole = sum(value.nbytes for value in [*state.values(), *moments.values()])
    for world in (2, 4):
        held = [json.loads((trained / str(world) / f"bytes{rank}.json").read_text()) for rank in range(world)]
        assert max(held) < whole / world * 1.15  # rows do not always divide
        rows = sharded_memory.held(task_of("plain"), world)[0] * sharded_memory.GIB / sharded_memory.STATES / 4
        assert max(held) == pytest.approx(
            rows * 3 * 8, rel=0.02
        )  # weights and two moments in float64, and counts of steps


def test_blocks_are_those_of_the_towers():
    found = shards.blocks(task_of("plain"))
    assert {type(block).__name__ for block in found} == {"Block", "ResidualAttentionBlock", "Embedding"}
    assert len(found) == 5


def test_launchers_are_understood_or_refused():
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    said, unsaid = OptimSettings(sharding="full"), OptimSettings()
    assert not shards.asked_to_shard(unsaid, "DistributedType.MULTI_GPU", {})
    assert shards.asked_to_shard(said, "DistributedType.MULTI_CPU", {})
    assert shards.asked_to_shard(unsaid, "DistributedType.FSDP", environment)
    assert shards.asked_to_shard(unsaid, "DistributedType.MULTI_CPU", environment)
    with pytest.raises(UsageError, match="say bf16"):
        shards.asked_to_shard(OptimSettings(sharding="full", precision="fp16"), environment={})
    for kind, more, words in (
        ("FSDP", {"ACCELERATE_USE_FSDP": "true"}, "--fsdp_version 2"),
        ("DEEPSPEED", {}, "not by DEEPSPEED"),
        ("FSDP", {**environment, "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS"),
        ("FSDP", {**environment, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, r"train\.recompute"),
    ):
        with pytest.raises(UsageError, match=words):
            shards.asked_to_shard(unsaid, f"DistributedType.{kind}", more)

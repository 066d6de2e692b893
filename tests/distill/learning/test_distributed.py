"""One, two and four gloo processes, towers whole and in chunks: the loss and the gradients of one process on the whole batch."""

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.learning.loss import LOSSES
from distill.learning.objective import Objective
from distill.learning.task import DistillTask
from tests.distill.learning.test_losses import TwoLinear, facts, inputs, second_texts

# Whether a captioner's loss is among them (which does not go in chunks); whether there are two streams of captions, weights by
# consistency and weights of the data's own; precision; chunk.
CASES = [
    case
    for case in itertools.product((False, True), (False, True), ("float32", "float64"), (None, 1, 3))
    if not (case[0] and case[3])
]


def gradients(world: int, rank: int) -> dict:
    """Each case's loss, the mean over ranks, and its gradients."""
    found = {}
    for captioned, rich, precision, chunk in CASES:
        dtype, part = getattr(torch, precision), 8 // world

        def cut(x, dtype=dtype, part=part):
            return x[rank * part : (rank + 1) * part].to(dtype)

        objective = Objective({name: 1.0 for name in LOSSES if captioned or name != "caption"}, 6, facts())
        task = DistillTask(TwoLinear(), objective, facts(), None, 0.5 if rich else None, chunk=chunk).to(dtype)
        model = torch.nn.parallel.DistributedDataParallel(task) if world > 1 else task
        images, texts, u, v = inputs()
        texts, v, weights = [texts], [v["t"]], None
        if rich:
            others, w = second_texts()
            texts, v, weights = [*texts, others], [*v, w["t"]], cut(torch.arange(1.0, 9))
        streams = torch.cat([cut(x) for x in texts]), {"t": cut(u["t"])}, {"t": torch.cat([cut(x) for x in v])}
        loss = model(cut(images), *streams, weights)["loss"]
        loss.backward()
        value = loss.detach().clone()
        if world > 1:
            torch.distributed.all_reduce(value)
        grads = {name: p.grad.flatten().tolist() for name, p in task.named_parameters()}
        found[f"{captioned} {rich} {precision}|{chunk}"] = {"loss": value.item() / world, "grads": grads}
    return found


def worker(world: int, rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = gradients(world, rank)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.process
@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_and_chunks_equal_one_process_on_the_whole_batch(tmp_path, world):
    alone = gradients(1, 0)
    if world == 1:
        found = alone
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.forks_preload"])
        processes = [context.Process(target=worker, args=(world, rank, str(tmp_path))) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0] * world
        found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == len(CASES) == 16
    for case, got in found.items():
        want = alone[f"{case.partition('|')[0]}|None"]
        near = 1e-10 if "float64" in case else 1e-5
        assert got["grads"].keys() == want["grads"].keys()
        assert any("log_scale" in name for name in want["grads"])
        assert abs(got["loss"] - want["loss"]) <= near * abs(want["loss"]), case
        for name, values in want["grads"].items():
            bound = near * max(map(abs, values)) + near / 1000
            differences = [abs(a - b) for a, b in zip(values, got["grads"][name], strict=True)]
            assert max(differences) <= bound, (case, name)


PRESETS_WORKER = """
import os, sys, torch
from torch.nn import functional as F
sys.path.insert(0, os.environ["HERE"])
from test_losses import TwoLinear
from distill.learning.objective import PRESETS, Objective, fixed_scale
from distill.learning.task import DistillTask
from teachers.spec import TeacherFacts
torch.set_num_threads(1)
rank = int(os.environ["RANK"])
torch.distributed.init_process_group("gloo", init_method=os.environ["INIT"], rank=rank, world_size=2)
for kind in ("softmax", "sigmoid"):
    facts = {"t": TeacherFacts("t", 6, 50.0, -10.0 if kind == "sigmoid" else 0.0, kind)}
    for objective in [*PRESETS, {"feature": 1.0}]:
        task = DistillTask(TwoLinear(), Objective(objective, 6, facts), facts, fixed_scale(objective))
        model = torch.nn.parallel.DistributedDataParallel(task)
        optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-2)
        for step in range(3):
            torch.manual_seed(10 * step + rank)
            teacher = [{"t": F.normalize(torch.randn(4, 6), dim=-1)} for _ in range(2)]
            # Captions and images that repeat, within a rank and between ranks.
            texts, ids = torch.randint(0, 2, (4, 4)).float(), torch.randint(0, 3, (4,))
            loss = model(torch.randn(4, 3), texts, *teacher, None, ids)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            task.after_step()
        if rank == 0:
            print(kind, objective, "ok", flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.mark.process
def test_every_preset_and_kind_of_teacher_steps_on_two_processes(tmp_path):
    """DistributedDataParallel refuses the second step when a parameter got no gradient in the first."""
    from distill.learning.objective import PRESETS

    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PRESETS_WORKER],
            env={
                **os.environ,
                "RANK": str(rank),
                "INIT": f"file://{tmp_path}/store",
                "HERE": str(Path(__file__).parent),
                "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[0][1][-2000:]
    assert said[0][0].count("ok") == 2 * (len(PRESETS) + 1)

"""Two gloo processes give the loss and the gradients of one process on the whole batch, every loss, scales included."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import json, os, sys, torch
from torch.nn import functional as F
sys.path.insert(0, os.environ["HERE"])
from test_losses import TwoLinear, facts, inputs, second_texts
from distill.learning.loss import LOSSES
from distill.learning.objective import Objective
from distill.learning.task import DistillTask
torch.set_num_threads(1)
world = int(os.environ["WORLD_SIZE"])
if world > 1:
    torch.distributed.init_process_group("gloo", init_method=os.environ["INIT"], rank=int(os.environ["RANK"]), world_size=world)
rank = int(os.environ["RANK"])
objective = Objective({name: 1.0 for name in LOSSES}, 6, facts())
rich = os.environ["RICH"] == "1"  # two streams of captions, weights by consistency, weights of the data's own
task = DistillTask(TwoLinear(), objective, facts(), None, 0.5 if rich else None)
model = torch.nn.parallel.DistributedDataParallel(task) if world > 1 else task
part = 8 // world
cut = lambda x: x[rank * part : (rank + 1) * part]
images, texts, u, v = inputs()
if rich:
    others, w = second_texts()
    two = lambda a, b: torch.cat([cut(a), cut(b)])
    losses = model(cut(images), two(texts, others), {"t": cut(u["t"])}, {"t": two(v["t"], w["t"])}, cut(torch.arange(1.0, 9)))
else:
    losses = model(cut(images), cut(texts), {"t": cut(u["t"])}, {"t": cut(v["t"])})
losses["loss"].backward()
value = losses["loss"].detach().clone()
if world > 1:
    torch.distributed.all_reduce(value)
if rank == 0:
    print(json.dumps({"loss": value.item() / world, "grads": {n: p.grad.flatten().tolist() for n, p in task.named_parameters()}}))
if world > 1:
    torch.distributed.destroy_process_group()
"""


def run(world: int, folder: Path, rich: bool) -> dict:
    root = Path(__file__).resolve().parents[3]
    processes = []
    for rank in range(world):
        env = {**os.environ, "WORLD_SIZE": str(world), "RANK": str(rank), "HERE": str(Path(__file__).parent)}
        env |= {
            "INIT": f"file://{folder}/store{world}",
            "PYTHONPATH": str(root),
            "OMP_NUM_THREADS": "1",
            "RICH": str(int(rich)),
        }
        processes.append(subprocess.Popen([sys.executable, "-c", WORKER], env=env, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return json.loads(outputs[0].strip().splitlines()[-1])


@pytest.mark.process
@pytest.mark.parametrize("rich", [False, True], ids=["plain", "streams-and-weights"])
def test_two_processes_equal_one(tmp_path, rich):
    one, two = run(1, tmp_path, rich), run(2, tmp_path, rich)
    assert abs(one["loss"] - two["loss"]) < 1e-5 * abs(one["loss"])
    assert one["grads"].keys() == two["grads"].keys()
    assert any("log_scale" in name for name in one["grads"])
    for name, values in one["grads"].items():
        largest = max(map(abs, values))
        assert all(abs(a - b) <= 1e-5 * largest + 1e-8 for a, b in zip(values, two["grads"][name], strict=True)), name


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

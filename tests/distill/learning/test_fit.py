"""The loop: resume is bit-exact, the schedule is the stated one, a bad loss stops with its samples' names."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distill.core.errors import DeviceMemoryError, DistillError
from distill.learning import checkpoint
from distill.learning.fit import fit
from distill.learning.loop.schedule import learning_rate, parameter_groups
from distill.learning.loop.trainable import Trainable
from distill.learning.settings import CheckpointSettings, OptimSettings


class Toy(Trainable):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images, texts, teacher_image, teacher_text):
        return {"loss": (self.body(self.norm(images)).squeeze(-1) - texts).square().mean()}


def batches(first, last):
    for step in range(first, last):
        g = torch.Generator().manual_seed(step)
        x = torch.randn(8, 4, generator=g)
        yield SimpleNamespace(
            images=x, texts=x.sum(-1), teacher_image={}, teacher_text={}, keys=[f"key-{step}"], weights=None
        )


def arguments(batch, device):
    return batch.images, batch.texts, {}, {}


def train(out, steps, task=None, source=batches, log_every=1, checkpoint_every=4, **more):
    task = task or Toy()
    optim = {
        "steps": steps, "lr": 1e-2, "lr_floor": 0.0, "warmup_steps": 2, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.98,
        "clip_norm": 1.0, "precision": "no", "device": "cpu", "log_every": log_every, **more,
    }  # fmt: skip
    out.mkdir(exist_ok=True)
    fit(
        task,
        source,
        arguments,
        out / "checkpoints",
        out / "metrics.jsonl",
        optim=OptimSettings(**optim),
        checkpointing=CheckpointSettings(checkpoint_every=checkpoint_every, keep_checkpoints=2),
        seed=0,
    )
    return task.state_dict()


class Stop(Exception):
    pass


def stops_at(step):
    def source(first, last):
        for index, batch in enumerate(batches(first, last), first):
            if index == step:
                raise Stop
            yield batch

    return source


@pytest.mark.parametrize("step", [1, 4, 5, 9, 11])
def test_a_run_cut_anywhere_and_resumed_is_bit_identical(tmp_path, step):
    whole = train(tmp_path / "a", 12)
    with pytest.raises(Stop):
        train(tmp_path / "b", 12, source=stops_at(step))
    resumed = train(tmp_path / "b", 12)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [[json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()] for run in "ab"]
    for log in logs:
        for row in log:
            row.pop("samples_per_s"), row.pop("data_wait_share"), row.pop("memory_gib")
    assert logs[0] == logs[1]


def test_trainings_of_one_process_have_each_its_own_precision(tmp_path):
    """A notebook trains in bf16 after one in float32, which then gives the same weights again."""
    before, half, after = (
        train(tmp_path / name, 3, precision=kind) for name, kind in (("a", "no"), ("b", "bf16"), ("c", "no"))
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(before[name], half[name]) for name in before)


def test_old_checkpoints_go_and_half_written_ones_do_not_count(tmp_path):
    train(tmp_path / "a", 12)
    folder = tmp_path / "a" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000008", "step-00000012"]
    (folder / "step-00000099").mkdir()
    assert checkpoint.latest(folder).step == 12
    (folder / "step-00000012" / "optimizer.pt").write_bytes(b"broken")
    with pytest.raises(DistillError, match="Delete that folder"):
        train(tmp_path / "a", 16)


def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    train(tmp_path / "a", 4)
    (tmp_path / "a" / "checkpoints" / "step-00000004" / "optimizer.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DistillError):
        train(tmp_path / "a", 8)
    assert not (tmp_path / "owned").exists()


def test_a_loss_that_is_not_finite_stops_with_the_samples(tmp_path):
    def poisoned(first, last):
        for batch in batches(first, last):
            batch.images = batch.images * (float("nan") if batch.keys == ["key-3"] else 1)
            yield batch

    with pytest.raises(DistillError, match=r"step 4 .*key-3"):
        train(tmp_path / "a", 8, source=poisoned)


def test_the_learning_rate_is_linear_then_cosine():
    optim = OptimSettings(steps=10, lr=1.0, lr_floor=0.1, warmup_steps=4)
    rates = [learning_rate(step, optim) for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[7] == pytest.approx(0.55)  # half way down the cosine
    assert rates[9] > 0.1


def test_gains_biases_and_scales_do_not_decay():
    decayed, free = parameter_groups(Toy(), 0.1)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in free["params"]} == {1}
    assert len(decayed["params"]) + len(free["params"]) == len(list(Toy().parameters()))
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_a_checkpoint_holds_the_scaler_of_fp16(tmp_path):
    """After overflows and growth its scale is far from the first one; a resumed run goes on with it."""
    task = Toy()
    optimizer = torch.optim.AdamW(task.parameters())
    scaler, fresh = (torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2))
    scaler.load_state_dict({**scaler.state_dict(), "scale": 64.0, "_growth_tracker": 17})
    checkpoint.save(tmp_path, 3, task.state_dict(), optimizer.state_dict(), 1, scaler)
    checkpoint.restore(checkpoint.latest(tmp_path), task, optimizer, fresh)
    assert fresh.state_dict() == scaler.state_dict()
    assert fresh.state_dict()["scale"] == 64.0


def test_a_batch_that_does_not_fit_the_device_is_an_error_for_people(tmp_path):
    class Large(Toy):
        def forward(self, *inputs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    with pytest.raises(DeviceMemoryError, match=r"step 1, .*9\.00 GiB.*train\.chunk"):
        train(tmp_path / "a", 3, Large())


def test_the_task_is_told_of_every_step(tmp_path):
    class Counted(Toy):
        steps = 0

        def after_step(self):
            self.steps += 1

    task = Counted()
    train(tmp_path / "a", 5, task)
    assert task.steps == 5

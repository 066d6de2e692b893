"""A step reads nothing from the device: counted as torch's own operations, on tensors that have no values, and in a loop."""

import contextlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distill.core.errors import LossError
from distill.learning import checkpoint
from distill.learning.loop.feed import DeviceFeed, pair_arguments
from distill.learning.loop.replicas import Replicas
from distill.learning.loop.step import take_step
from distill.learning.loop.unread import Unread
from distill.learning.loss import LOSSES
from distill.learning.objective import Objective
from distill.learning.settings import OptimSettings
from distill.learning.task import DistillTask
from tests.distill.learning.test_fit import Toy, batches, train
from tests.distill.learning.test_losses import TwoLinear, facts


class HostReads(TorchDispatchMode):
    """Counts what makes the host read values of tensors: item, bool and float (`_local_scalar_dense`), tolist, numpy, cpu.

    AdamW's step counts are not counted: torch keeps them in host memory when it isn't fused.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.found = []
        for name in ("tolist", "numpy", "cpu"):  # these are no operations of the dispatcher on tensors of the host
            monkeypatch.setattr(torch.Tensor, name, self.counted(name, getattr(torch.Tensor, name)))

    def counted(self, name, real):
        def instead(tensor, *given, **more):
            self.found.append(name)
            return real(tensor, *given, **more)

        return instead

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"):
            frame, files = sys._getframe(), []
            while frame is not None:
                files.append(frame.f_code.co_filename)
                frame = frame.f_back
            if not any("/torch/optim/" in file for file in files):
                self.found.append(files[1:6])
        return function(*args, **(kwargs or {}))


def test_reads_are_counted(monkeypatch):
    with HostReads(monkeypatch) as reads:
        value = torch.ones(())
        _ = value.item(), bool(value), float(value), torch.isfinite(value).any().item()
        _ = value.tolist(), value.cpu(), value.numpy()
    assert len(reads.found) == 7


def test_between_logged_steps_nothing_is_read(tmp_path, monkeypatch):
    counts = {}

    def source(first, last):
        for step, batch in enumerate(batches(first, last), first):
            counts[step] = len(reads.found)
            yield batch

    with HostReads(monkeypatch) as reads:
        train(tmp_path / "a", 12, source=source, log_every=6, checkpoint_every=9)
    reading = [step for step in range(1, 12) if counts[step] > counts[step - 1]]
    assert reading == [6, 9]


class Meta(TorchDispatchMode):
    """Collects the copies from host tensors to the stand-in device, which has shapes and no values."""

    def __init__(self):
        super().__init__()
        self.copied = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._overloadpacket.__name__
        to = kwargs.get("device")
        if name == "_to_copy" and to is not None and to.type == "meta" and args[0].device.type == "cpu":
            self.copied.append(tuple(args[0].shape))
        return function(*args, **kwargs)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_whole_step_of_every_loss_runs_where_values_cannot_be_read(kind, monkeypatch):
    """On "meta" item(), bool() and tolist() raise; a copy there would be one that makes the host wait for a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which meta has none of
    known = facts(kind=kind)
    names = {name: 1.0 for name in LOSSES if name != "caption"}
    task = DistillTask(TwoLinear(), Objective(names, 6, known), known, None, 0.5).to("meta")
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    accelerator = SimpleNamespace(
        autocast=contextlib.nullcontext,
        backward=torch.Tensor.backward,
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
        prepare=lambda *given: given,
    )
    held = Replicas(accelerator, task, optimizer)
    batch = SimpleNamespace(
        images=torch.zeros(8, 3, dtype=torch.uint8), texts=torch.zeros(16, 4), weights=torch.ones(8),
        teacher_image={"t": torch.zeros(8, 6)}, teacher_text={"t": torch.zeros(16, 6)}, image_ids=torch.arange(8), unpaired=0,
        tokens=None,
    )  # fmt: skip
    meta = torch.device("meta")
    for _ in range(2):  # what is kept on the device is brought there in the first step
        with Meta() as seen:
            inputs = pair_arguments(lambda texts: texts)(batch, meta)
            handed = len(seen.copied)
            losses, norm = take_step(held, inputs, OptimSettings())
            task.after_step()
    assert losses["loss"].device == norm.device == meta
    assert handed == 6
    assert seen.copied[handed:] == []


def poisoned(at):
    def source(first, last):
        for step, batch in enumerate(batches(first, last), first):
            if step == at:
                batch.images = batch.images * float("nan")
            yield batch

    return source


@pytest.mark.parametrize("at", [0, 3, 5, 6, 7, 10])
def test_the_step_that_went_wrong_is_named_and_no_checkpoint_holds_it(tmp_path, at):
    with pytest.raises(LossError, match=rf"step {at + 1} \(samples key-{at}, ") as caught:
        train(tmp_path / "a", 12, source=poisoned(at), log_every=5, checkpoint_every=4)
    assert caught.value.step == at + 1
    kept = checkpoint.latest(tmp_path / "a" / "checkpoints")
    assert (kept.step if kept else 0) == at // 4 * 4
    for found in (tmp_path / "a" / "checkpoints").glob("step-*"):
        state = checkpoint.read_task(checkpoint.Checkpoint(found, 0))
        assert all(torch.isfinite(value).all() for value in state.values())


class Spoilt(Toy):
    """A finite loss whose gradient is not: the square root of zero."""

    def forward(self, images, texts, teacher_image, teacher_text):
        losses = super().forward(images, texts, teacher_image, teacher_text)
        return {"loss": losses["loss"] + (0 * self.body(images)).abs().sum().sqrt()}


def test_a_gradient_that_is_not_finite_is_named_too(tmp_path):
    with pytest.raises(LossError, match=r"The gradient is not finite at step 1 \(samples key-0, "):
        train(tmp_path / "a", 8, task=Spoilt(), log_every=3)


def test_an_overflow_is_no_error_where_a_scaler_leaves_out_the_step():
    unread = Unread(overflows=True)
    unread.note(0, ["a"], torch.tensor(1.0), torch.tensor(float("inf")))
    unread.note(1, ["b"], torch.tensor(1.0), torch.tensor(2.0))
    assert unread.read() == 2.0
    unread.note(2, ["c"], torch.tensor(float("inf")), torch.tensor(2.0))
    with pytest.raises(LossError, match=r"The loss is not finite at step 3 \(samples c, "):
        unread.read()


class Side:
    """A side stream that writes down what is done when."""

    def __init__(self, events):
        self.events, self.inside = events, False

    def used(self):
        return self

    def __enter__(self):
        self.inside = True

    def __exit__(self, *_):
        self.inside = False

    def hand_over(self, tensors):
        self.events.append(("hand over", len(list(tensors))))


def test_the_next_batch_is_on_its_way_while_a_step_is_launched():
    events = []
    side = Side(events)

    def arguments(batch, device):
        events.append(("copy", batch, side.inside))
        return torch.zeros(1), {"t": torch.zeros(1)}, None, [torch.zeros(1)]

    feed = DeviceFeed(iter([1, 2]), arguments, torch.device("cpu"), side)
    for _ in range(2):
        batch, _ = feed.take()
        events.append(("step", batch))
        feed.look_ahead()
        feed.look_ahead()  # one ahead, no more
    assert events == [
        ("copy", 1, True), ("hand over", 3), ("step", 1), ("copy", 2, True), ("hand over", 3), ("step", 2),
    ]  # fmt: skip
    with pytest.raises(StopIteration):
        feed.take()


def test_without_a_side_stream_a_batch_is_asked_for_when_it_is_needed():
    asked = []
    feed = DeviceFeed(iter([1, 2]), lambda batch, _: (asked.append(batch),), torch.device("cpu"))
    feed.look_ahead()
    assert asked == []
    assert feed.take()[0] == 1
    feed.look_ahead()
    assert asked == [1]

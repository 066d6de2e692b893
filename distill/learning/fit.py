"""The one training loop, on accelerate: one process to many nodes, students and full teachers alike.

Every batch, draw and dropout mask is a pure function of (seed, step, rank), so that a run resumed from a checkpoint takes
exactly the steps that an uninterrupted one takes. Left out: what is trained (task), where batches come from (the caller).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from distill.core.errors import DeviceMemoryError, DistillError
from distill.core.progress import Progress, silent
from distill.learning import checkpoint as checkpoints
from distill.learning.loop import speed
from distill.learning.loop.average import WeightAverage
from distill.learning.loop.clock import CheckpointClock
from distill.learning.loop.feed import DeviceFeed
from distill.learning.loop.log import MetricsLog, Pace, memory_gib
from distill.learning.loop.replicas import Replicas
from distill.learning.loop.schedule import learning_rate, parameter_groups
from distill.learning.loop.shards import Shards, asked_to_shard
from distill.learning.loop.step import take_step
from distill.learning.loop.stopping import Saved, Stopping, Together, another_cannot, naming_the_dead
from distill.learning.loop.trainable import BatchLike, Trainable
from distill.learning.loop.unread import Unread
from distill.learning.settings import CheckpointSettings, OptimSettings

B = TypeVar("B", bound=BatchLike)
Batches = Callable[[int, int], Iterator[B]]  # batches(first_step, last_step) yields this rank's batch of each step
Arguments = Callable[[B, torch.device], tuple[Any, ...]]  # a batch -> what the task is called with, on that device


@dataclass(frozen=True)
class Leg:
    """A part of a training that is taken by one model of several (progressive stages); the schedule is that of the whole.

    Attributes:
        first, last: 0-based steps [first, last) of the whole.
        moments: AdamW's state to begin with, parameter name -> "exp_avg", "exp_avg_sq", "step"; empty = none yet.
    """

    first: int
    last: int
    moments: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def fit(
    task: Trainable,
    batches: Batches[B],
    arguments: Arguments[B],
    checkpoint_folder: Path,
    metrics_file: Path,
    *,
    optim: OptimSettings,
    checkpointing: CheckpointSettings,
    seed: int,
    progress: Progress = silent,
    factor: Callable[[str], float] = lambda _: 1.0,
    leg: Leg | None = None,
) -> None:
    """Train `task` in place to optim.steps, going on from the newest complete checkpoint.

    Args:
        task: called with a batch's arguments -> named losses with "loss", each a scalar.
        metrics_file: gets a line of JSON per logged step; losses are means over the ranks.
        seed: of everything random inside the task (dropout).
        factor: from a parameter's name to what the learning rate is multiplied by for it.
        leg: the steps to take, where they are a part of the training; None = all.

    Raises:
        LossError: the loss or its gradient is not finite; names the step and the samples.
        DeviceMemoryError: a step does not fit the device.
        Saved: SIGINT or SIGTERM came; there is a checkpoint of the last step taken.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # accelerate holds a process to the precision of its first training; a notebook or a script may make several.
    AcceleratorState._reset_state()
    # Without a device accelerate takes several processes for strangers to each other, unless it is told that they are on CPUs.
    on_cpu = optim.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    accelerator = Accelerator(mixed_precision=optim.precision, cpu=on_cpu)
    shards = asked_to_shard(optim, str(accelerator.distributed_type)) and accelerator.num_processes > 1
    speed.lay_out(task, optim, accelerator.device, sharded=shards)

    def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        betas, more = (optim.beta1, optim.beta2), speed.fused(accelerator.device)
        return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, eps=1e-6, **more)

    optimizer = adamw(parameter_groups(task, optim.weight_decay, factor))
    leg = leg or Leg(0, optim.steps)
    first_step, known = _restored(checkpoint_folder, task, optimizer, accelerator.scaler, leg)
    held = (
        Shards(accelerator, task, optimizer, adamw, optim.compile is True)
        if shards
        else Replicas(accelerator, task, optimizer)
    )
    log = MetricsLog(metrics_file, first_step, optim if accelerator.is_main_process else None)
    held.task.train()
    feed = DeviceFeed(batches(first_step, leg.last), arguments, accelerator.device, ahead=accelerator.num_processes > 1)
    loop = _Loop(accelerator, held, optim, checkpointing, checkpoint_folder, log, known, progress)
    if optim.ema is not None:
        loop.average = _average(held.task, optim.ema, checkpoint_folder)
    with contextlib.closing(log), naming_the_dead(accelerator.num_processes):
        _take_steps(loop, feed, leg.first, first_step, leg.last, seed)
        held.settle()
    task.eval()


def _take_steps(loop: "_Loop", feed: DeviceFeed[B], first: int, begin: int, last: int, seed: int) -> None:
    """The 0-based steps [begin, last) of a training (or leg) that began at `first`, or fewer and then Saved, see `fit`."""
    due = CheckpointClock(loop.checkpointing, last)
    accelerator = loop.accelerator
    together = Together(accelerator.num_processes)
    with Stopping() as stop:
        feed.look_ahead()
        together.say(stop.asked, feed.failed)
        for step in range(begin, last):
            heard = together.hear()
            ends = heard.asked and step > begin
            if heard.due or ends:
                loop.save(step)
            if not ends:
                if heard.failed and not feed.failed:
                    raise another_cannot()
                try:
                    batch, inputs = feed.take()
                except DistillError:  # the signal may have ended a worker too
                    ends = together.alone and stop.asked and step > begin
                    if not ends:
                        raise
                    loop.save(step)
            if ends:
                together.close()
                raise Saved
            torch.manual_seed((seed * 1_000_003 + step) * 4096 + accelerator.process_index)
            loop.take(step, batch.keys, inputs, first)
            feed.look_ahead()
            done = step + 1
            together.say(stop.asked, feed.failed, accelerator.is_main_process and due(done))  # one clock for all
            if done % loop.optim.log_every == 0 or done == last:
                loop.log(done, feed.waited_s)
        if begin < last:
            loop.save(last)
        together.close()


@dataclass
class _Loop:
    """What the steps of a training share."""

    accelerator: Any
    held: Replicas | Shards
    optim: OptimSettings
    checkpointing: CheckpointSettings
    folder: Path
    metrics: MetricsLog
    known: dict[str, float]  # losses that the checkpoint knows which training goes on from
    progress: Progress

    def __post_init__(self) -> None:
        self.unread = Unread(overflows=self.accelerator.scaler is not None)
        self.pace = Pace()
        self.first_loss: Tensor | None = None
        self.losses: dict[str, Tensor] = {}
        self.rate = 0.0
        self.average: WeightAverage | None = None
        self.saved = -1

    def take(self, step: int, keys: list[str], inputs: tuple[Any, ...], first: int) -> None:
        """One optimizer step, of a training (or leg) whose 0-based first one is `first`."""
        self.rate = learning_rate(step, self.optim)
        for group in self.held.optimizer.param_groups:
            group["lr"] = self.rate * group.get("factor", 1.0)
        self.held.task.before_step(step)
        try:
            self.losses, norm = take_step(self.held, inputs, self.optim)
        except torch.OutOfMemoryError as error:
            said = str(error).splitlines()[0]
            raise DeviceMemoryError(
                f"The device's memory is full at step {step + 1}, with {len(keys)} pairs in a process ({said}). Lower "
                "train.batch_size; or keep it, in less memory, with train.chunk, train.recompute or train.precision=bf16."
            ) from error
        self.held.task.after_step()
        self.unread.note(step, keys, self.losses["loss"], norm)
        if self.average is not None:
            self.average.update(step + 1 - first)
        self.first_loss = self.losses["loss"].detach() if step == first else self.first_loss
        self.pace.samples += len(keys) * self.accelerator.num_processes

    def log(self, done: int, waited_s: float) -> None:
        """Write the row of a step. Raises LossError, see `Unread`."""
        norm = self.unread.read()
        scalars = [value.detach().float() for value in self.losses.values()]
        scalars.append(torch.full((), self.pace.waited(waited_s), device=self.accelerator.device))
        *means, waited = self.accelerator.reduce(torch.stack(scalars), "mean").tolist()
        if self.accelerator.is_main_process:
            named, speed = dict(zip(self.losses, means, strict=True)), self.pace.read(waited)
            memory = memory_gib(self.accelerator.device)
            row = {"step": done, "lr": self.rate, "grad_norm": norm, **named, **speed, **memory}
            self.metrics.write(row)
            self.progress(done, self.optim.steps, _note(row))

    def save(self, done: int) -> None:
        """Write a checkpoint, in the first process. Called by every one; raises LossError where a step since the last reading was
        wrong."""
        if self.saved == done:
            return
        self.saved = done
        if self.unread.waiting:
            self.unread.read()
        state, optimizer = self.held.whole(self.held.task.state_dict()), self.held.optimizer_state()
        average = None if self.average is None else self.held.whole(self.average.state)
        if not self.accelerator.is_main_process:
            return
        seen = self.known if self.first_loss is None else {"first": self.first_loss.item()}
        losses = {**seen, "last": self.losses["loss"].item(), "mean": self.unread.mean_loss()}
        checkpoints.save(
            self.folder, done, state, optimizer, self.checkpointing.keep_checkpoints, self.accelerator.scaler, losses,
            self.checkpointing.keep_best, average,
        )  # fmt: skip


def _average(task: nn.Module, decay: float, folder: Path) -> WeightAverage:
    """Of the task as it is, or as the newest checkpoint knows it."""
    average, found = WeightAverage(task, decay), checkpoints.latest(folder)
    if found is not None and (state := checkpoints.read_average(found)) is not None:
        average.load(state)
    return average


def _restored(
    folder: Path, task: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any, leg: Leg
) -> tuple[int, dict[str, float]]:
    """The step to begin with, and the losses known: those of the newest checkpoint, which is loaded; or the leg's first."""
    found = checkpoints.latest(folder)
    if found is None:
        named = dict(task.named_parameters())
        for name, moments in leg.moments.items():
            own = named[name]
            optimizer.state[own] = {
                key: value.clone() if key == "step" else value.to(own.device, own.dtype).clone()
                for key, value in moments.items()
            }
        return leg.first, {}
    checkpoints.restore(found, task, optimizer, scaler)
    return found.step, found.losses


def _note(row: dict[str, float]) -> str:
    return f"loss {row['loss']:.3f}, {row['samples_per_s']:.0f} samples/s, data wait {row['data_wait_share']:.0%}"

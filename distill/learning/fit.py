"""The one training loop, on accelerate: one process to many nodes, students and full teachers alike.

Every batch, draw and dropout mask is a pure function of (seed, step, rank), so that a run resumed from a checkpoint takes
exactly the steps that an uninterrupted one takes. Left out: what is trained (task), where batches come from (the caller).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from distill.core.errors import DistillError, UsageError
from distill.core.progress import Progress, silent
from distill.learning import checkpoint as checkpoints
from distill.learning.loop import speed
from distill.learning.loop.average import WeightAverage
from distill.learning.loop.clock import CheckpointClock
from distill.learning.loop.feed import DeviceFeed
from distill.learning.loop.log import MetricsLog, Pace, memory_gib
from distill.learning.loop.schedule import learning_rate, parameter_groups
from distill.learning.loop.stopping import Saved, Stopping, Together
from distill.learning.loop.unread import Unread
from distill.learning.settings import CheckpointSettings, OptimSettings


class BatchLike(Protocol):
    """What the loop itself reads of a batch: the keys of this rank's b samples."""

    @property
    def keys(self) -> list[str]:
        """One per sample."""
        ...


class Trainable(nn.Module):
    """What `fit` trains."""

    def before_step(self, step: int) -> None:
        """Called before the forward pass of the 0-based `step`."""

    def drop_gradients(self) -> None:
        """Called when gradients are there, before they are used: set those to None whose parameters are to stay."""

    def parts(self, inputs: tuple[Any, ...], count: int) -> list[tuple[Any, ...]]:
        """The arguments of a batch as those of `count` equal parts of it. Raises UsageError where it does not divide so."""
        raise UsageError("train.accumulate does not go with what trains here: leave it out.")

    def after_step(self) -> None:
        """Called after each optimizer step, for parameters that have bounds."""


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
        Saved: SIGINT or SIGTERM came; there is a checkpoint of the last step taken.
    """
    from accelerate import Accelerator

    # Without a device accelerate takes several processes for strangers to each other, unless it is told that they are on CPUs.
    on_cpu = optim.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    accelerator = Accelerator(mixed_precision=optim.precision, cpu=on_cpu)
    _refuse_sharding(accelerator)
    speed.lay_out(task, optim, accelerator.device)
    optimizer = torch.optim.AdamW(
        parameter_groups(task, optim.weight_decay, factor), lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=1e-6,
        **speed.fused(accelerator.device),
    )  # fmt: skip
    leg = leg or Leg(0, optim.steps)
    first_step, known = _restored(checkpoint_folder, task, optimizer, accelerator.scaler, leg)
    wrapped, prepared = accelerator.prepare(task, optimizer)
    log = MetricsLog(metrics_file, first_step, optim if accelerator.is_main_process else None)
    task.train()
    feed = DeviceFeed(batches(first_step, leg.last), arguments, accelerator.device)
    loop = _Loop(accelerator, task, wrapped, prepared, optim, checkpointing, checkpoint_folder, log, known, progress)
    if optim.ema is not None:
        loop.average = _average(task, optim.ema, checkpoint_folder)
    due = CheckpointClock(checkpointing, leg.last)
    together = Together(accelerator.num_processes)
    with Stopping() as stop, contextlib.closing(log):
        for step in range(first_step, leg.last):
            try:
                batch, inputs = feed.take()
            except DistillError:  # the signal may have ended a worker too
                if stop.asked and step > first_step:
                    loop.save(step)
                    raise Saved from None
                raise
            torch.manual_seed((seed * 1_000_003 + step) * 4096 + accelerator.process_index)
            loop.take(step, batch.keys, inputs, leg.first)
            feed.look_ahead()
            done = step + 1
            logged = done % optim.log_every == 0 or done == leg.last
            stops = together.end(stop.asked)
            if logged:
                loop.log(done, feed.waited_s)
            if due(done) or stops:
                loop.save(done)
            if stops and done < leg.last:
                together.close()
                raise Saved
        together.close()
    task.eval()


@dataclass
class _Loop:
    """What the steps of a training share."""

    accelerator: Any
    task: Trainable
    wrapped: nn.Module
    optimizer: Any
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

    def take(self, step: int, keys: list[str], inputs: tuple[Any, ...], first: int) -> None:
        """One optimizer step, of a training (or leg) whose 0-based first one is `first`."""
        self.rate = learning_rate(step, self.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group.get("factor", 1.0)
        self.task.before_step(step)
        self.losses, norm = _take_step(self.accelerator, self.wrapped, self.optimizer, inputs, self.optim, self.task)
        self.task.after_step()
        self.unread.note(step, keys, self.losses["loss"], norm)
        if self.average is not None:
            self.average.update(step + 1 - first)
        self.first_loss = self.losses["loss"].detach() if step == first else self.first_loss
        self.pace.samples += len(keys) * self.accelerator.num_processes

    def log(self, done: int, waited_s: float) -> None:
        """Write the row of a step. Raises LossError, see `Unread`."""
        norm = self.unread.read()
        scalars = [value.detach().float() for value in self.losses.values()]
        means = self.accelerator.reduce(torch.stack(scalars), "mean").tolist()
        if self.accelerator.is_main_process:
            named, speed = dict(zip(self.losses, means, strict=True)), self.pace.read(waited_s)
            memory = memory_gib(self.accelerator.device)
            row = {"step": done, "lr": self.rate, "grad_norm": norm, **named, **speed, **memory}
            self.metrics.write(row)
            self.progress(done, self.optim.steps, _note(row))

    def save(self, done: int) -> None:
        """Write a checkpoint, in the first process alone. Raises LossError where a step since the last reading was wrong."""
        if not self.accelerator.is_main_process:
            return
        if self.unread.waiting:
            self.unread.read()
        seen = self.known if self.first_loss is None else {"first": self.first_loss.item()}
        losses = {**seen, "last": self.losses["loss"].item(), "mean": self.unread.mean_loss()}
        checkpoints.save(
            self.folder, done, self.task, self.optimizer, self.checkpointing.keep_checkpoints, self.accelerator.scaler,
            losses, self.checkpointing.keep_best, None if self.average is None else self.average.state,
        )  # fmt: skip


def _refuse_sharding(accelerator: Any) -> None:
    """Raise UsageError where a launcher asks for more than data parallelism: checkpoints are written by one process."""
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if kind not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        raise UsageError(
            f"distill trains by DistributedDataParallel, not by {kind}: students fit a device. Launch it with --multi_gpu; for a "
            "batch that does not fit, say train.chunk, train.recompute or train.accumulate."
        )


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


def _take_step(
    accelerator: Any, task: nn.Module, optimizer: Any, inputs: tuple[Any, ...], optim: OptimSettings, trained: Trainable
) -> tuple[dict[str, Tensor], Tensor]:
    """One optimizer step of `task`, which wraps `trained`: the named losses and the gradient's norm before clipping.

    Nothing here makes the host wait for the device, so that nothing here may look at a value.
    """
    optimizer.zero_grad()
    if optim.accumulate == 1:
        losses = _gradient(accelerator, task, inputs, 1)
    else:
        *before, last = trained.parts(inputs, optim.accumulate)
        found = []
        for part in before:
            with accelerator.no_sync(task):  # gradients are summed over the processes once a step
                found.append(_gradient(accelerator, task, part, optim.accumulate))
        found.append(_gradient(accelerator, task, last, optim.accumulate))
        losses = {name: torch.stack([each[name].detach() for each in found]).mean(0) for name in found[0]}
    trained.drop_gradients()
    norm = accelerator.clip_grad_norm_(task.parameters(), optim.clip_norm)
    optimizer.step()
    return losses, norm


def _gradient(accelerator: Any, task: nn.Module, inputs: tuple[Any, ...], parts: int) -> dict[str, Tensor]:
    """Add the gradient of one of so many parts of a batch, divided by their number. Returns its named losses."""
    with accelerator.autocast():
        losses: dict[str, Tensor] = task(*inputs)
    accelerator.backward(losses["loss"] if parts == 1 else losses["loss"] / parts)
    return losses

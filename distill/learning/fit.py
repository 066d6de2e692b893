"""The one training loop, on accelerate: one process to many nodes, students and full teachers alike.

Every batch, draw and dropout mask is a pure function of (seed, step, rank), so that a run resumed from a checkpoint takes
exactly the steps that an uninterrupted one takes. Left out: what is trained (task), where batches come from (the caller).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from distill.core.progress import Progress, silent
from distill.learning import checkpoint as checkpoints
from distill.learning.loop.clock import CheckpointClock
from distill.learning.loop.feed import DeviceFeed
from distill.learning.loop.log import MetricsLog, Pace
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

    def after_step(self) -> None:
        """Called after each optimizer step, for parameters that have bounds."""


B = TypeVar("B", bound=BatchLike)
Batches = Callable[[int, int], Iterator[B]]  # batches(first_step, last_step) yields this rank's batch of each step
Arguments = Callable[[B, torch.device], tuple[Any, ...]]  # a batch -> what the task is called with, on that device


def learning_rate(step: int, optim: OptimSettings) -> float:
    """The rate of 0-based `step`: linear warm-up over warmup_steps, then cosine from lr to lr_floor at the end."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    share = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.lr_floor + (optim.lr - optim.lr_floor) * 0.5 * (1 + math.cos(math.pi * share))


def parameter_groups(
    task: nn.Module, weight_decay: float, factor: Callable[[str], float] = lambda _: 1.0
) -> list[dict[str, Any]]:
    """Weights and embeddings decay; gains, biases and scales (fewer than two axes) do not.

    Args:
        task: whose parameters they are.
        weight_decay: of those that decay.
        factor: from a parameter's name to what the learning rate is multiplied by for it.

    Returns:
        One group per kind and factor: params, names (in the same order), weight_decay, factor.
    """
    trainable = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
    factors = sorted({factor(name) for name, _ in trainable} or {1.0}, reverse=True)
    groups = []
    for share in factors:
        for decay, wide in ((weight_decay, True), (0.0, False)):
            chosen = [(name, p) for name, p in trainable if factor(name) == share and (p.ndim >= 2) == wide]
            names, parameters = [name for name, _ in chosen], [p for _, p in chosen]
            groups.append({"params": parameters, "names": names, "weight_decay": decay, "factor": share})
    return groups


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
    """
    from accelerate import Accelerator

    # Without a device accelerate takes several processes for strangers to each other, unless it is told that they are on CPUs.
    on_cpu = optim.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    accelerator = Accelerator(mixed_precision=optim.precision, cpu=on_cpu)
    optimizer = torch.optim.AdamW(
        parameter_groups(task, optim.weight_decay, factor), lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=1e-6
    )
    leg = leg or Leg(0, optim.steps)
    first_step, known = _restored(checkpoint_folder, task, optimizer, accelerator.scaler, leg)
    wrapped, prepared = accelerator.prepare(task, optimizer)
    log = MetricsLog(metrics_file, first_step) if accelerator.is_main_process else None
    task.train()
    feed, pace = DeviceFeed(batches(first_step, leg.last), arguments, accelerator.device), Pace()
    unread = Unread(overflows=accelerator.scaler is not None)
    first_loss: Tensor | None = None
    due = CheckpointClock(checkpointing, leg.last)
    for step in range(first_step, leg.last):
        batch, inputs = feed.take()
        torch.manual_seed((seed * 1_000_003 + step) * 4096 + accelerator.process_index)
        rate = learning_rate(step, optim)
        for group in prepared.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        task.before_step(step)
        losses, norm = _take_step(accelerator, wrapped, prepared, inputs, optim.clip_norm, task)
        task.after_step()
        unread.note(step, batch.keys, losses["loss"], norm)
        feed.look_ahead()
        first_loss = losses["loss"].detach() if step == leg.first else first_loss
        pace.samples += len(batch.keys) * accelerator.num_processes
        done = step + 1
        logged, saved = done % optim.log_every == 0 or done == leg.last, accelerator.is_main_process and due(done)
        if not (logged or saved):
            continue
        last_norm = unread.read()
        if logged:
            mean = _means(accelerator, losses)
            if log is not None:
                row = {"step": done, "lr": rate, "grad_norm": last_norm, **mean, **pace.read(feed.waited_s)}
                log.write(row)
                progress(done, optim.steps, _note(row))
        if saved:
            seen = known if first_loss is None else {"first": first_loss.item()}
            checkpoints.save(
                checkpoint_folder, done, task, optimizer, checkpointing.keep_checkpoints, accelerator.scaler,
                {**seen, "last": losses["loss"].item()},
            )  # fmt: skip
    task.eval()


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
    accelerator: Any, task: nn.Module, optimizer: Any, inputs: tuple[Any, ...], clip_norm: float, trained: Trainable
) -> tuple[dict[str, Tensor], Tensor]:
    """One optimizer step of `task`, which wraps `trained`: the named losses and the gradient's norm before clipping.

    Nothing here makes the host wait for the device, so that nothing here may look at a value.
    """
    with accelerator.autocast():
        losses: dict[str, Tensor] = task(*inputs)
    optimizer.zero_grad()
    accelerator.backward(losses["loss"])
    trained.drop_gradients()
    norm = accelerator.clip_grad_norm_(task.parameters(), clip_norm)
    optimizer.step()
    return losses, norm


def _means(accelerator: Any, losses: dict[str, Tensor]) -> dict[str, float]:
    """The means of scalars over the ranks, by one reduction and one transfer."""
    stacked = torch.stack([value.detach().float() for value in losses.values()])
    return dict(zip(losses, accelerator.reduce(stacked, "mean").tolist(), strict=True))

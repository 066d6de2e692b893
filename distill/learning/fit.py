"""The one training loop, on accelerate: one process to many nodes, students and full teachers alike.

Every batch, draw and dropout mask is a pure function of (seed, step, rank), so that a run resumed from a checkpoint takes
exactly the steps that an uninterrupted one takes. Left out: what is trained (task), where batches come from (the caller).
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distill.core.errors import DistillError
from distill.learning import checkpoint as checkpoints


class BatchLike(Protocol):
    """The part of reinforced_data's Batch that the loop reads."""

    images: Tensor
    texts: Any
    teacher_image: dict[str, Tensor]
    teacher_text: dict[str, Tensor]
    keys: list[str]
    weights: Tensor | None


Batches = Callable[[int, int], Iterator[BatchLike]]
Progress = Callable[[int, int, dict[str, float]], None]


def learning_rate(step: int, *, steps: int, lr: float, lr_floor: float, warmup_steps: int) -> float:
    """The rate of 0-based `step`: linear warm-up over warmup_steps, then cosine from lr to lr_floor at the end."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return lr_floor + (lr - lr_floor) * 0.5 * (1 + math.cos(math.pi * share))


def parameter_groups(task: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights and embeddings decay; gains, biases and scales (fewer than two axes) do not."""
    trainable = [p for p in task.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


class MetricsLog:
    """metrics.jsonl, one line per logged step. On resume, lines at or after the resumed step are dropped first."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first_step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write(self, row: dict[str, float]) -> None:
        """Append one row."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def fit(
    task: nn.Module,
    batches: Batches,
    tokenize: Callable[[Any], Tensor],
    out: Path,
    *,
    steps: int,
    lr: float,
    lr_floor: float,
    warmup_steps: int,
    weight_decay: float,
    betas: tuple[float, float],
    clip_norm: float,
    precision: str,
    device: str,
    seed: int,
    checkpoint_every: int,
    keep_checkpoints: int,
    log_every: int,
    progress: Progress | None = None,
) -> None:
    """Train `task` in place to `steps`, going on from the newest complete checkpoint under out/checkpoints.

    Args:
        task: called as task(images, texts, teacher_image, teacher_text), with weights last where a batch has them,
            -> named losses with "loss".
        batches: batches(first_step, last_step) yields this rank's batch of each step.
        tokenize: a batch's texts -> tensor for the task.
        out: gets checkpoints/ and metrics.jsonl.

    Raises:
        DistillError: the loss is not finite; names the step and the samples.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
    optimizer = torch.optim.AdamW(parameter_groups(task, weight_decay), lr=lr, betas=betas, eps=1e-6)
    found = checkpoints.latest(out / "checkpoints")
    first_step = 0
    if found is not None:
        checkpoints.restore(found, task, optimizer)
        first_step = found.step
    wrapped, prepared = accelerator.prepare(task, optimizer)
    log = MetricsLog(out / "metrics.jsonl", first_step) if accelerator.is_main_process else None
    task.train()
    waited, started, since = 0.0, time.perf_counter(), first_step
    source = batches(first_step, steps)
    for step in range(first_step, steps):
        before = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - before
        torch.manual_seed((seed * 1_000_003 + step) * 4096 + accelerator.process_index)
        rate = learning_rate(step, steps=steps, lr=lr, lr_floor=lr_floor, warmup_steps=warmup_steps)
        for group in prepared.param_groups:
            group["lr"] = rate
        losses, norm = _take_step(accelerator, wrapped, prepared, batch, tokenize(batch.texts), clip_norm, step)
        done = step + 1
        if log is not None and (done % log_every == 0 or done == steps):
            elapsed = time.perf_counter() - started
            row: dict[str, float] = {"step": done, "lr": rate, "grad_norm": norm}
            row |= {name: value.item() for name, value in losses.items()}
            row["samples_per_s"] = (done - since) * batch.images.shape[0] * accelerator.num_processes / elapsed
            row["data_wait_share"] = waited / elapsed
            log.write(row)
            waited, started, since = 0.0, time.perf_counter(), done
            if progress:
                progress(done, steps, row)
        if accelerator.is_main_process and (done % checkpoint_every == 0 or done == steps):
            checkpoints.save(out / "checkpoints", done, task, optimizer, keep_checkpoints)
    task.eval()


def _take_step(
    accelerator: Any, task: nn.Module, optimizer: Any, batch: BatchLike, texts: Tensor, clip_norm: float, step: int
) -> tuple[dict[str, Tensor], float]:
    """One optimizer step: the named losses and the gradient's norm before clipping."""
    place = accelerator.device
    with accelerator.autocast():
        losses: dict[str, Tensor] = task(
            _pixels(batch.images.to(place)),
            texts.to(place),
            {name: value.to(place) for name, value in batch.teacher_image.items()},
            {name: value.to(place) for name, value in batch.teacher_text.items()},
            *(() if batch.weights is None else (batch.weights.to(place),)),
        )
    if not torch.isfinite(losses["loss"]):
        raise DistillError(
            f"The loss is not finite at step {step + 1} (samples {', '.join(batch.keys[:4])}, ...). Lower train.lr or "
            "raise train.warmup_steps, and call again with --resume."
        )
    optimizer.zero_grad()
    accelerator.backward(losses["loss"])
    norm = accelerator.clip_grad_norm_(task.parameters(), clip_norm)
    optimizer.step()
    return losses, norm.item()


def _pixels(images: Tensor) -> Tensor:
    """uint8 images as floats in [0, 1], rows in memory order; features as they are."""
    return images.contiguous().float().div_(255) if images.dtype == torch.uint8 else images

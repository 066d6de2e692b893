"""Training checkpoints: a folder per step that is complete when its state.json exists. No pickle is loaded."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from distill.core import atomic
from distill.core.errors import DistillError
from distill.core.folders.disk import Writing

STATE_FILE, TASK_FILE, AVERAGE_FILE = "state.json", "task.safetensors", "average.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint folder and the number of steps taken when it was written."""

    path: Path
    step: int

    @property
    def losses(self) -> dict[str, float]:
        """The loss of the training's first step ("first") and of the checkpoint's own ("last"), and the mean of the steps since the
        checkpoint before ("mean"); an older version kept fewer."""
        return dict(atomic.read_json(self.path / STATE_FILE).get("losses", {}))


def latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint under `folder`, or None."""
    atomic.restore_asides(folder)
    found = [Checkpoint(p.parent, int(p.parent.name[5:])) for p in folder.glob(f"step-*/{STATE_FILE}")]
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def read_task(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The state dict of what was trained. Raises DistillError when it is damaged."""
    return _read(checkpoint, TASK_FILE)


def read_average(checkpoint: Checkpoint) -> dict[str, torch.Tensor] | None:
    """The average of what was trained; None where the checkpoint has none. Raises DistillError when it is damaged."""
    return _read(checkpoint, AVERAGE_FILE) if (checkpoint.path / AVERAGE_FILE).exists() else None


def _read(checkpoint: Checkpoint, name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        state: dict[str, torch.Tensor] = load_file(checkpoint.path / name)
        return state
    except Exception as error:
        raise DistillError(
            f"The checkpoint {str(checkpoint.path)!r} does not load ({error}). Delete its folder and call again with --resume."
        ) from error


def read_moments(checkpoint: Checkpoint) -> dict[str, dict[str, torch.Tensor]]:
    """AdamW's state by parameter name: "exp_avg", "exp_avg_sq", "step". Raises DistillError when it is damaged."""
    try:
        state: dict[str, Any] = torch.load(checkpoint.path / "optimizer.pt", map_location="cpu", weights_only=True)
        names = [name for group in state["param_groups"] for name in group["names"]]
        return {name: state["state"][index] for index, name in enumerate(names) if index in state["state"]}
    except Exception as error:
        raise DistillError(
            f"The checkpoint {str(checkpoint.path)!r} does not load ({error}). Delete its folder and call again with --resume."
        ) from error


def save(
    folder: Path,
    step: int,
    state: Mapping[str, torch.Tensor],
    optimizer_state: Mapping[str, Any],
    keep: int,
    scaler: Any = None,
    losses: Mapping[str, float] = MappingProxyType({}),
    keep_best: int = 0,
    average: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write step-XXXXXXXX/ atomically, then drop all but the `keep` newest and the `keep_best` of the lowest mean loss.

    Args:
        state, optimizer_state: the state_dict of what is trained, and of its optimizer, whose groups have "names".
        scaler: the GradScaler of fp16 training, whose scale has found its height over many steps; None = there is none.
        losses: see `Checkpoint.losses`.
        average: the average of what is trained, where there is one.
    """
    from safetensors.torch import save_file

    with atomic.staged_dir(folder / f"step-{step:08d}") as path:
        for name, tensors in ((TASK_FILE, state), (AVERAGE_FILE, average)):
            if tensors is not None:
                save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(path / name))
        _save_optimizer(optimizer_state, path / "optimizer.pt")
        grad_scaler = None if scaler is None else scaler.state_dict()
        atomic.write_json(path / STATE_FILE, {"step": step, "losses": dict(losses), "grad_scaler": grad_scaler})
    older = sorted(folder.glob("step-*"))[:-keep]
    best = sorted(older, key=_mean_loss)[:keep_best]
    for old in older:
        if old not in best:
            shutil.rmtree(old)


def _mean_loss(path: Path) -> float:
    """Of a checkpoint's folder; infinite where it is not whole, or says nothing of it."""
    if not (path / STATE_FILE).exists():
        return math.inf
    return Checkpoint(path, 0).losses.get("mean", math.inf)


def _save_optimizer(state: Mapping[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        writing = Writing(file)
        try:
            torch.save(state, writing)  # type: ignore[arg-type]
        except RuntimeError:
            if writing.failed is not None:
                raise writing.failed from None
            raise


def restore(checkpoint: Checkpoint, task: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any = None) -> None:
    """Load a checkpoint into task, optimizer and GradScaler. Raises DistillError when it does not fit or is damaged."""
    from safetensors.torch import load_file

    try:
        task.load_state_dict(load_file(checkpoint.path / TASK_FILE))
        state: dict[str, Any] = torch.load(checkpoint.path / "optimizer.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state)
        grad_scaler = atomic.read_json(checkpoint.path / STATE_FILE).get("grad_scaler")
        if scaler is not None and grad_scaler is not None:
            scaler.load_state_dict(grad_scaler)
    except Exception as error:
        raise DistillError(
            f"The checkpoint {str(checkpoint.path)!r} does not load ({error}). Delete that folder and call again with "
            "--resume: training goes on from the one before it, or from its start."
        ) from error

"""How a task is laid out for the device that trains it: what changes time and memory, and the mathematics by rounding alone.

Left out: precision, which autocast brings, chunks of towers (`distill.learning.blocks`), the order of convolutions'
memory (`distill.core.clip.channels_last`).
"""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.core.errors import UsageError
from distill.learning.settings import OptimSettings


def lay_out(task: nn.Module, optim: OptimSettings, device: torch.device, sharded: bool = False) -> None:
    """Apply `recompute`, `compile`, `tf32` and the synchronised BatchNorms of the settings to a task, in place.

    The towers of a task that will be sharded are not compiled here: their blocks are, when they are made (`Shards`).

    Raises UsageError where the task or the device cannot follow.
    """
    if optim.batch_norm == "synced":
        synchronise(task, device)
    if optim.recompute:
        recompute(task)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = optim.tf32
    if optim.compile:
        for tower in towers(task, "train.compile"):
            if not sharded:
                tower.compile()


def towers(task: nn.Module, setting: str) -> list[nn.Module]:
    """The image and the text tower of a student in training. Raises UsageError, which names the setting, where there is none."""
    clip = getattr(getattr(task, "model", None), "clip", None)
    if not isinstance(clip, nn.Module):
        raise UsageError(f"{setting} is for students, and what trains here is none: leave it out.")
    text = getattr(clip, "text", None)
    return [
        module for module in (clip.visual, clip.transformer if text is None else text) if isinstance(module, nn.Module)
    ]


def synchronise(task: nn.Module, device: torch.device) -> None:
    """Let the BatchNorms of several processes share the statistics of the global batch, in place; alone they do already.

    timm's BatchNorms with an activation inside become timm's own kind. Raises UsageError off CUDA, where torch has none.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if torch.distributed.get_world_size() == 1:
        return
    if device.type != "cuda":
        raise UsageError(
            "train.batch_norm=synced needs GPUs: torch synchronises BatchNorms on CUDA alone. Say batch (each process has its own "
            "statistics) or fixed."
        )
    from timm.layers import convert_sync_batchnorm

    convert_sync_batchnorm(task)


def recompute(task: nn.Module) -> None:
    """Keep no activations inside the blocks of a student's towers, and compute them again for the gradient.

    BatchNorms would take in the batch's statistics twice; the second time they leave their own as they are.
    """
    for tower in towers(task, "train.recompute"):
        trunk: Any = getattr(tower, "trunk", tower)  # of timm; open_clip's own method would swallow what it cannot do
        try:
            if hasattr(trunk, "set_grad_checkpointing"):
                trunk.set_grad_checkpointing(True)
            else:
                trunk.grad_checkpointing  # noqa: B018 - the flag of open_clip's text transformer
                trunk.grad_checkpointing = True
        except (AttributeError, AssertionError, NotImplementedError) as error:
            kind = type(trunk).__name__
            raise UsageError(f"train.recompute: a tower of the kind {kind} cannot ({error}). Leave it out.") from None
    for module in task.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(_hold_statistics)
            module.register_forward_hook(
                _release_statistics, always_call=True
            )  # a repetition may end inside the forward pass


def _hold_statistics(norm: Any, _: Any) -> None:
    if norm.training and _in_backward():
        norm._kept_momentum, norm.momentum = norm.momentum, 0.0


def _release_statistics(norm: Any, *_: Any) -> None:
    kept = norm.__dict__.pop("_kept_momentum", None)
    if kept is not None:
        norm.momentum = kept
        norm.num_batches_tracked.sub_(1)


def _in_backward() -> bool:
    """Whether a gradient is being computed, so that a forward pass is a repetition."""
    return torch._C._current_graph_task_id() != -1


def fused(device: torch.device) -> dict[str, bool]:
    """How AdamW is told to take its step in one kernel; on CUDA alone, so that trainings on a CPU repeat bit for bit."""
    return {"fused": True} if device.type == "cuda" else {}

"""How a task is laid out for the device that trains it: what changes time and memory, and the mathematics by rounding alone.

Left out: precision, which autocast brings, chunks of towers (`distill.learning.blocks`), the order of convolutions'
memory (`distill.core.clip.channels_last`).
"""

import importlib.util
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.core.errors import UsageError
from distill.learning.settings import OptimSettings

LEAST_STEPS = 2_000  # whose gain, of 15 % of a step of half a second, is worth two and a half minutes
TRITON_NEEDS = (7, 0)  # CUDA capability


def lay_out(task: nn.Module, optim: OptimSettings, device: torch.device, sharded: bool = False) -> None:
    """Apply `recompute`, `compile`, `tf32` and the synchronised BatchNorms of the settings to a task, in place.

    `compile` is true or false, as the caller has settled it (`worth_compiling`); "auto" is false here. The towers of a task that
    will be sharded are not compiled here: their blocks are, when they are made (`Shards`).

    Raises UsageError where the task or the device cannot follow.
    """
    if optim.batch_norm == "synced":
        synchronise(task, device)
    if optim.recompute:
        recompute(task)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = optim.tf32
    if optim.compile is True:
        for tower in towers(task, "train.compile"):
            if not sharded:
                tower.compile()


def worth_compiling(
    optim: OptimSettings, student: nn.Module, steps: int, device: torch.device, sharded: bool = False
) -> tuple[bool, str]:
    """(whether to compile the towers, why), by train.compile; "auto" is answered for a student on a device.

    Others have measured 15 % (RN50) to 27 % (ViT-S/16) on GPUs with open_clip (its issue 610), where the start takes minutes. Left
    out: recomputed towers, which torch cannot compile under DistributedDataParallel's buckets (pytorch issue 104674), and
    those that no graph holds as a whole. Not measured here.

    Args:
        student: whose clip has the towers.
        steps: that this student takes. sharded: whether each process holds a share of it.
    """
    if optim.compile != "auto":
        return optim.compile, "as told"
    if device.type != "cuda":
        return False, "without a GPU its start costs more than it gains"
    if torch.cuda.get_device_capability(device) < TRITON_NEEDS or importlib.util.find_spec("triton") is None:
        return False, "it needs Triton, and a GPU not older than Volta"
    if steps < LEAST_STEPS:
        return False, f"its start costs minutes, which fewer than {LEAST_STEPS:,} steps hardly win back"
    if optim.recompute or optim.chunk is not None:
        return (
            False,
            "towers that run again for the gradient (train.recompute, train.chunk) are compiled where told alone",
        )
    if optim.batch_norm == "synced" or sharded:
        return (
            False,
            "what comes from other processes (train.batch_norm=synced, train.sharding) cuts towers in pieces",
        )
    if any(type(module).__name__ == "HFTextEncoder" for module in student.modules()):
        return False, "a text tower of transformers is compiled anew for each length of captions"
    return True, f"{steps:,} steps on a GPU win back the minutes of its start"


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

"""What the loop trains, where each process holds a share of it: torch's fully_shard (FSDP2), for models that fit no device.

Weights, gradients and AdamW's moments are divided over the processes by rows. A block of a tower is put together when it runs
and divided again, so that a device holds its share, one or two blocks, and activations. Values are those of
DistributedDataParallel: weights stay in float32, and half precision comes from autocast as everywhere. FSDP's own mixed
precision would send half the bytes, but it casts what a block reads and normalises with, which is another training.

Left out: offloading to the host, and meshes of more than one dimension.
"""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill.core.errors import UsageError
from distill.learning.settings import OptimSettings

if TYPE_CHECKING:
    from distill.learning.loop.trainable import Trainable

LARGEST, SMALLEST = 1 / 16, 1 / 1000  # of all parameters, in a block that is divided by itself
_HANDLED = {  # what `accelerate launch --use_fsdp` can ask for besides, and how it is said here
    "FSDP_OFFLOAD_PARAMS": "nothing is offloaded to the host here",
    "FSDP_ACTIVATION_CHECKPOINTING": "say train.recompute = true",
}


def asked_to_shard(optim: OptimSettings, kind: str = "NO", environment: Mapping[str, str] = os.environ) -> bool:
    """Whether processes hold a share each: train.sharding = full, or a launcher that says FSDP2.

    Args:
        optim: its sharding and precision.
        kind: accelerate's distributed type; on CPUs it never is FSDP, and the environment alone says it.

    Raises UsageError for what launchers know and this loop does not do.
    """
    kind = kind.rpartition(".")[2]
    by_launcher = environment.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if by_launcher and environment.get("FSDP_VERSION", "1") != "2":
        raise UsageError(
            "distill shards by FSDP2, and the launcher asks for FSDP1. Launch with --use_fsdp --fsdp_version 2, or with "
            "--multi_gpu and --set train.sharding=full."
        )
    for name, instead in _HANDLED.items():
        if by_launcher and environment.get(name, "").lower() == "true":
            raise UsageError(f"The launcher asks for {name}=true: {instead}. Leave it out.")
    if kind not in ("NO", "MULTI_GPU", "MULTI_CPU", "FSDP"):
        raise UsageError(
            f"distill trains by DistributedDataParallel or FSDP2, not by {kind}. Launch it with --multi_gpu; for a student that "
            "does not fit a device, say --set train.sharding=full."
        )
    sharded = by_launcher or optim.sharding == "full"
    if sharded and optim.precision == "fp16":
        raise UsageError(
            "train.precision=fp16 does not go with train.sharding, whose gradients no scaler sees: say bf16."
        )
    return sharded


def blocks(task: nn.Module) -> list[nn.Module]:
    """The modules to divide each by itself: the elements of stacks (of residual blocks), inner ones before outer ones, and tables
    of token embeddings.

    An element that holds more than a sixteenth of all parameters gives way to those inside it; those of next to nothing, and
    those that share a parameter with the rest, stay with the rest.
    """
    total = sum(parameter.numel() for parameter in task.parameters())
    owners: dict[int, int] = {}
    for _, parameter in task.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [block for block in _elements(task, LARGEST * total) if _alone(block, SMALLEST * total, owners)]


def _elements(module: nn.Module, most: float) -> Iterator[nn.Module]:
    stack = isinstance(module, nn.Sequential | nn.ModuleList)
    for child in module.children():
        inside = list(_elements(child, most))
        whole = stack and not isinstance(child, nn.Sequential | nn.ModuleList) and any(True for _ in child.children())
        if isinstance(child, nn.Embedding) or (
            whole and not (inside and sum(p.numel() for p in child.parameters()) > most)
        ):
            yield child
        else:
            yield from inside


def _alone(block: nn.Module, least: float, owners: Mapping[int, int]) -> bool:
    inside: dict[int, int] = {}
    for _, parameter in block.named_parameters(remove_duplicate=False):
        inside[id(parameter)] = inside.get(id(parameter), 0) + 1
    return sum(p.numel() for p in block.parameters()) >= least and all(owners[key] == n for key, n in inside.items())


class Shards:
    """A task and its optimizer as one process of several trains its share of them. See `Replicas`, whose methods these are.

    Args:
        accelerator: of accelerate, with more than one process.
        task: as training begins, with every value; stays on the host until `settle`.
        optimizer: over its parameters, with the moments to begin with, which are taken out of it.
        make: from groups of parameters to an optimizer.
        compiled: compile the blocks.

    Attributes:
        task, module: the copy that trains, sharded.
        optimizer: over its shards.
    """

    def __init__(
        self,
        accelerator: Any,
        task: "Trainable",
        optimizer: torch.optim.Optimizer,
        make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        compiled: bool = False,
    ) -> None:
        self._accelerator, self._device = accelerator, accelerator.device
        self._given, self._given_optimizer = task, optimizer
        self._processes: int = accelerator.num_processes
        self._is_main: bool = accelerator.is_main_process
        _alike(task, self._device)
        self.task = self.module = _sharded(task, self._device, self._processes, compiled)
        named = dict(self.task.named_parameters())
        self._scalars = [p for p in named.values() if not _is_shard(p)]
        self._own = [p for p in named.values() if _is_shard(p)]
        self.optimizer = make(_groups(optimizer, named))
        for name, parameter in _by_name(optimizer):
            moments = optimizer.state.pop(parameter, {})
            fused = bool(self.optimizer.defaults.get("fused"))
            for key, value in moments.items():
                own = named[name]
                placed = value.to(own.device) if key != "step" or fused else value
                self.optimizer.state[own][key] = placed if key == "step" else _laid_out(placed, own)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """As `Replicas.autocast`, without its memory of weights in half precision, which would be those of all blocks."""
        from accelerate.utils import AutocastKwargs

        context: contextlib.AbstractContextManager[Any] = self._accelerator.autocast(
            AutocastKwargs(cache_enabled=False)
        )
        return context

    def backward(self, loss: Tensor) -> None:
        """As `Replicas.backward`."""
        self._accelerator.backward(loss)

    def unfinished(self) -> contextlib.AbstractContextManager[Any]:
        """Nothing: a part's gradient is divided at once, since a device may not hold the whole of it until the last part."""
        return contextlib.nullcontext()

    def clip(self, most: float) -> Tensor:
        """As `Replicas.clip`; before it, the gradients of scalars, which every process holds, become their mean."""
        alone = [p.grad for p in self._scalars if p.grad is not None]
        shares = [local(p.grad) for p in self._own if p.grad is not None]
        if alone:
            means = torch.stack(alone)
            torch.distributed.all_reduce(means)
            torch._foreach_copy_(alone, list((means / self._processes).unbind()))
        squares = torch.zeros((), device=self._device, dtype=shares[0].dtype if shares else None)
        if held := [share for share in shares if share.numel()]:
            squares = torch.stack(torch._foreach_norm(held)).square().sum()
        torch.distributed.all_reduce(squares)
        norm = (squares + torch.stack(alone).square().sum() if alone else squares).sqrt()
        torch._foreach_mul_([*held, *alone], (most / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As of `Replicas`: one tensor after the other, on the host of the first process; empty in the others."""
        found = {}
        for name, value in state.items():
            full = value.full_tensor() if _is_shard(value) else value  # type: ignore[attr-defined]
            if self._is_main:
                found[name] = full.detach().cpu()
        return found

    def optimizer_state(self) -> dict[str, Any]:
        """As of `Replicas`, in the format of an optimizer that holds everything; without moments in other processes."""
        named = dict(self.task.named_parameters())
        moments = [self.whole(self.optimizer.state.get(named[name], {})) for name, _ in _by_name(self._given_optimizer)]
        rates = {name: group["lr"] for group in self.optimizer.param_groups for name in group["names"]}
        state: dict[str, Any] = self._given_optimizer.state_dict()
        for group in state["param_groups"]:
            group["lr"] = next((rates[name] for name in group["names"]), group["lr"])
        state["state"] = {index: found for index, found in enumerate(moments) if found}
        return state

    @torch.no_grad()
    def settle(self) -> None:
        """Give the task that was given the values that the shards have come to. Every process calls this."""
        given = self._given.state_dict()
        for name, value in self.task.state_dict().items():
            if _is_shard(value):
                full = value.full_tensor()
            else:
                full = value
                torch.distributed.broadcast(full, 0)  # statistics of BatchNorms, of which the first process's are kept
            given[name].copy_(full)


def local(value: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory; the tensor itself where it is no shard."""
    own: Tensor = value.to_local() if _is_shard(value) else value  # type: ignore[attr-defined]
    return own


def take_in(value: Tensor, whole: Tensor) -> None:
    """Give a tensor of the task's layout, in place, its part of the values of a whole one."""
    local(value).copy_(local(_laid_out(whole.to(value.device), value)))


def _is_shard(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")  # DTensor, which a training without shards never imports


def _laid_out(whole: Tensor, like: Tensor) -> Tensor:
    """This process's share of a tensor that every process has the whole of."""
    if not _is_shard(like):
        return whole.to(like.dtype).clone()
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    shard: Tensor = distribute_tensor(whole.to(like.dtype), mesh, placements, src_data_rank=None)
    return shard


def _by_name(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def _groups(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """The optimizer's groups over other parameters of the same names, shards and whole ones apart, as its kernels need them."""
    groups = []
    for group in optimizer.param_groups:
        for kind in (True, False):
            names = [name for name in group["names"] if _is_shard(named[name]) == kind]
            if names:
                groups.append({**group, "names": names, "params": [named[name] for name in names]})
    return groups


@torch.no_grad()
def _alike(task: nn.Module, device: torch.device) -> None:
    """Give every process the first one's values, as DistributedDataParallel does."""
    for value in task.state_dict().values():
        there = value.to(device)
        torch.distributed.broadcast(there, 0)
        value.copy_(there)


def _sharded(task: "Trainable", device: torch.device, processes: int, compiled: bool) -> "Trainable":
    """A copy of the task, each of its blocks and the rest divided over the processes; numbers without axes stay whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    made = copy.deepcopy(task)
    made.sharded = True
    for parameter in made.parameters():
        parameter.data = parameter.data.contiguous()  # channels-last order has no shards
    mesh = init_device_mesh(device.type, (processes,))
    scalars = {parameter for parameter in made.parameters() if parameter.ndim == 0}
    for scalar in scalars:
        scalar.data = scalar.data.to(device)
    for block in blocks(made):
        if compiled:
            block.compile()
        fully_shard(block, mesh=mesh, ignored_params=scalars)
    fully_shard(made, mesh=mesh, ignored_params=scalars)
    for module in made.modules():
        if device.type != "cuda" and isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo has sums and no means
    return made

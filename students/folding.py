"""BatchNorms folded into the layers before or behind them, wherever that changes nothing but rounding; what stays says why.

A model is traced, so that who reads what is known and not guessed from names; a part that cannot be traced is entered. Left out:
the merging of training branches, and checking the result (`students.reparameterize`).
"""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Layers that own their weights plainly; a subclass may standardise or clip them at each call.
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# What only moves values about, so that each output element is one input element.
MOVES = {"flatten", "transpose", "permute", "reshape", "view", "contiguous", "squeeze", "unsqueeze"}


@dataclass
class Folding:
    """What became of each BatchNorm.

    Attributes:
        folded: names of those that are gone, those of merged branches left out.
        left: name -> why it cannot go.
        difference: the largest absolute difference of the checked outputs in float64.
    """

    folded: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    difference: float = 0.0


def fold_norms(module: nn.Module) -> Folding:
    """Fold the BatchNorms of `module`, in place and in its own precision. It must be in eval mode.

    A BatchNorm with running statistics is a scale and a shift per channel, so it goes without a trace
    - into the convolution or linear layer whose output it alone reads;
    - else into all convolutions without padding and linear layers that read its output, if nothing else does: a shift seen
      through zero padding would be another at the borders.
    """
    folding = Folding()
    shared = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    for prefix, root, graph in _graphs(module, ""):
        calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        graph_of = _Graph(root, {name for name, times in calls.items() if times == 1}, shared)
        for node in list(graph.nodes):
            if node.op == "call_module" and isinstance(root.get_submodule(node.target), _BatchNorm):
                why = graph_of.fold(node)
                if why:
                    folding.left[prefix + node.target] = why
                else:
                    folding.folded.append(prefix + node.target)
            elif node.op == "call_module" and type(root.get_submodule(node.target)).__name__ == "LayerScale2d":
                graph_of.fold_scale(node)
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and name not in folding.left:
            folding.left[name] = "how its module uses it cannot be traced"
    return folding


def after_norm(norm: nn.Module) -> nn.Module:
    """What timm's BatchNormAct does after normalising (its activation), else nothing."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (_BatchNorm, *WEIGHTED, nn.MultiheadAttention)):
            return True
        # Nothing to fold inside, and its Python may look at values.
        if not any(isinstance(part, _BatchNorm) for part in m.modules()):
            return not _is_transparent(m)
        return super().is_leaf_module(m, module_qualified_name) and not isinstance(m, nn.Sequential)


def _is_transparent(m: nn.Module) -> bool:
    """Whether layers of `m` may take a BatchNorm from outside, so that one must see into it."""
    return any(isinstance(part, WEIGHTED) for part in m.modules())


def _graphs(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, fx.Graph]]:
    """The graphs of the largest parts of `module` that hold BatchNorms and can be traced, with their names' prefix."""
    if isinstance(module, _BatchNorm) or not any(isinstance(part, _BatchNorm) for part in module.modules()):
        return
    try:
        yield prefix, module, _Tracer().trace(module)
    except Exception:  # tracing runs any code; a part that it cannot follow is entered
        for name, child in module.named_children():
            yield from _graphs(child, f"{prefix}{name}.")


class _Graph:
    """Folding within one traced module; `once`: names of the modules that it calls once; `shared`: uses of each module by id."""

    def __init__(self, root: nn.Module, once: set[str], shared: Counter[int]) -> None:
        self.root, self.once, self.shared = root, once, shared

    def fold(self, node: fx.Node) -> str:
        """Fold the BatchNorm that `node` calls; else return why it stays."""
        norm = self.root.get_submodule(str(node.target))
        if norm.running_mean is None or norm.running_var is None:
            return "it has no running statistics and depends on its batch"
        if not self._own(str(node.target)):
            return "it is used more than once"
        if not (before := self._into_source(node, norm)):
            return ""
        behind = self._into_readers(node, norm)
        return behind and f"{before}, and {behind}"

    def fold_scale(self, node: fx.Node) -> None:
        """Fold timm's layer scale that `node` calls into the convolution before it, where it alone reads that."""
        scale: Any = self.root.get_submodule(str(node.target))
        gain = scale.gamma.detach().reshape(-1)
        if self._own(str(node.target)):
            self._into_source(node, scale, (gain, torch.zeros_like(gain)), of=(nn.Conv2d,))

    def _into_source(
        self, node: fx.Node, norm: Any, values: tuple[Tensor, Tensor] | None = None, of: tuple[type, ...] = WEIGHTED
    ) -> str:
        """Fold `norm`, or the scale and shift `values` that it stands for, into the layer before it; else return why not."""
        source = node.args[0]
        while isinstance(source, fx.Node) and self._is_idle(source) and len(_users(source)) == 1:
            source = source.args[0]
        if not isinstance(source, fx.Node) or not self._weighted(source):
            return "right before it stands no convolution or linear layer with plain weights that is used once"
        if len(_users(source)) > 1:
            return "others read what it normalises too"
        layer: Any = self.root.get_submodule(str(source.target))
        if type(layer) not in of:
            return "another kind of layer stands before it"
        self._replace(str(source.target), _ahead(layer, *(values or _scale_and_shift(norm))))
        self._replace(str(node.target), after_norm(norm))
        return ""

    def _into_readers(self, node: fx.Node, norm: Any) -> str:
        if not isinstance(after_norm(norm), nn.Identity):
            return "an activation follows it"
        readers: list[fx.Node] = []
        if why := self._readers(node, torch.arange(norm.num_features).view(1, -1, 1, 1), readers, norm):
            return why
        if not readers:
            return "nothing reads it"
        for name in {str(reader.target) for reader in readers}:
            self._replace(name, _behind(self.root.get_submodule(name), *_scale_and_shift(norm)))
        self._replace(str(node.target), nn.Identity())
        return ""

    def _readers(self, node: fx.Node, channels: Tensor, found: list[fx.Node], norm: Any) -> str:
        """Collect the layers that read `node`; "" when all can take a scale and a shift, else why not.

        `channels`: the number of its channel at each element of what `node` gives, of some size.
        """
        if node.op == "call_module" and isinstance(norm, nn.BatchNorm1d):
            channels = channels.view(1, -1)
        elif channels.shape[-2:] == (1, 1):
            channels = channels.expand(1, -1, 3, 5)
        for user in _users(node):
            if self._is_idle(user):
                why = self._readers(user, channels, found, norm)
            elif user.op == "call_method" and user.target in MOVES and _constant(user):
                moved = getattr(channels, str(user.target))(*user.args[1:], **user.kwargs)
                why = self._readers(user, moved, found, norm)
            elif user.op == "call_function" and getattr(user.target, "__name__", "") in MOVES and _constant(user):
                why = self._readers(user, user.target(channels, *user.args[1:], **user.kwargs), found, norm)  # type: ignore[operator]
            else:
                why = self._takes(user, channels, norm)
                found.append(user)
            if why:
                return why
        return ""

    def _takes(self, user: fx.Node, channels: Tensor, norm: Any) -> str:
        if not self._weighted(user):
            what = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", str(user.target))
            return f"its output goes into {what}, which has no plain weights to take it"
        layer: Any = self.root.get_submodule(str(user.target))
        axis = -1 if isinstance(layer, nn.Linear) else 1
        along = torch.arange(norm.num_features).view(
            [-1 if at == axis % channels.ndim else 1 for at in range(channels.ndim)]
        )
        if channels.shape[axis] != norm.num_features or not bool((channels == along).all()):
            return f"{user.target} behind it does not read its channels one by one"
        if not isinstance(layer, nn.Linear) and (layer.padding == "same" or any(layer.padding)):
            return f"{user.target} behind it pads: a shift would be another at the borders"
        return ""

    def _own(self, name: str) -> bool:
        part = self.root.get_submodule(name)
        return name in self.once and self.shared[id(part)] == 1

    def _weighted(self, node: fx.Node) -> bool:
        if node.op != "call_module" or not self._own(str(node.target)):
            return False
        layer = self.root.get_submodule(str(node.target))
        return type(layer) in WEIGHTED and not layer._forward_hooks and not layer._forward_pre_hooks

    def _is_idle(self, node: fx.Node) -> bool:
        """Whether it gives what it gets when not training."""
        if node.op != "call_module":
            return False
        part = self.root.get_submodule(str(node.target))
        return isinstance(part, nn.Identity | nn.modules.dropout._DropoutNd) or type(part).__name__ == "DropPath"

    def _replace(self, name: str, new: nn.Module) -> None:
        parent, _, own = name.rpartition(".")
        new.eval()
        for parameter in new.parameters():
            parameter.requires_grad_(False)
        setattr(self.root.get_submodule(parent), own, new)
        self.shared[id(new)] = 1


def _users(node: fx.Node) -> list[fx.Node]:
    """Those that read the values of `node`, and not only its shape."""
    return [
        user
        for user in node.users
        if not (user.target is getattr and user.args[1] in ("shape", "ndim", "dtype", "device"))
        and not (user.op == "call_method" and user.target in ("size", "dim"))
    ]


def _constant(node: fx.Node) -> bool:
    """Whether nothing but its first argument depends on the input."""
    return not any(isinstance(value, fx.Node) for value in (*node.args[1:], *node.kwargs.values()))


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """[C] each: what the BatchNorm `norm` multiplies by and adds when it runs."""
    gain = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight.detach()
    scale = gain * torch.rsqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach()


def _ahead(layer: Any, scale: Tensor, shift: Tensor) -> nn.Module:
    """`layer` with its output multiplied by `scale` and `shift` added, per channel [C]."""
    new = copy.deepcopy(layer)
    new.weight = nn.Parameter(layer.weight.detach() * scale.view(-1, *(1,) * (layer.weight.ndim - 1)))
    new.bias = nn.Parameter(shift if layer.bias is None else layer.bias.detach() * scale + shift)
    return new  # type: ignore[no-any-return]


def _behind(layer: Any, scale: Tensor, shift: Tensor) -> nn.Module:
    """`layer` for an input that lacks the multiplication by `scale` and the addition of `shift`, per channel [C]."""
    new = copy.deepcopy(layer)
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        added = weight @ shift
        weight = weight * scale
    else:
        groups, per_group = layer.groups, layer.in_channels // layer.groups
        tail = (1,) * (weight.ndim - 2)
        # Output channel o reads the input channels of its own group.
        of = torch.arange(layer.out_channels) // (layer.out_channels // groups)
        added = (weight.flatten(2).sum(2) * shift.view(groups, per_group)[of]).sum(1)
        weight = weight * scale.view(groups, per_group)[of].view(layer.out_channels, per_group, *tail)
    new.weight = nn.Parameter(weight)
    new.bias = nn.Parameter(added if layer.bias is None else layer.bias.detach() + added)
    return new  # type: ignore[no-any-return]

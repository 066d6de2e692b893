"""Looking into a source while it reads calibration pairs: what goes into each of its linear layers, with gradients on demand.

torch's MultiheadAttention never calls its output layer as a module; while a source is opened it is replaced by the same
attention written out, with the very same parameters, so that hooks see the heads apart.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.calibration import Calibration
from students.inherit.resnets.scoring import opened_resnet, watch_resnet
from students.inherit.resnets.tower import ResNetTower
from students.inherit.towers.tower import Tower

PIECE = 32  # pairs at a time


class _Attention(nn.Module):
    """torch's MultiheadAttention for one batch-first sequence with itself, its output layer called as a module."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """[b, L, width] three times -> ([b, L, width], None)."""
        q, k, v = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(
                (query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True
            )
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


@contextlib.contextmanager
def opened(model: nn.Module, tower: Tower) -> Iterator[dict[str, nn.Module]]:
    """Role of a weight ("blocks.0.out") -> the module whose input or output can be hooked, while the context lasts."""
    changed: list[tuple[nn.Module, str, nn.Module]] = []
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention) and module.batch_first and "attn_pool" not in name:
            parent, _, own = name.rpartition(".")
            holder = model.get_submodule(parent)
            changed.append((holder, own, module))
            setattr(holder, own, _Attention(module))
    try:
        yield {
            role.removesuffix(".weight"): model.get_submodule(place.name.rpartition(".")[0])
            for role, place in tower.places.items()
            if role.endswith(".weight") and place.name.endswith(".weight")
        }
    finally:
        for holder, own, module in changed:
            setattr(holder, own, module)


@contextlib.contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Hooks that are taken away again."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def watched(
    model: nn.Module,
    tower: Tower | ResNetTower,
    see: Callable[[str, int, Tensor], Tensor | None],
    *,
    branches: bool = False,
) -> Iterator[None]:
    """While the context lasts, `see` is shown every tensor of a tower that a plan can cut (`watch`, or `watch_resnet`)."""
    with contextlib.ExitStack() as stack:
        if isinstance(tower, ResNetTower):
            stack.enter_context(opened_resnet(model))
            stack.enter_context(hooked(watch_resnet(model, tower, see, branches=branches)))
        else:
            stack.enter_context(hooked(watch(stack.enter_context(opened(model, tower)), tower, see)))
        yield


def watch(modules: dict[str, nn.Module], tower: Tower, see: Callable[[str, int, Tensor], Tensor | None]) -> list[Any]:
    """Hooks that show `see` every tensor that a plan can cut: (part, layer, value).

    Parts "out" and "down" are what goes into those layers, heads [.., heads x head width] and neurons [.., ffn]; "norm1",
    "norm2" and "norm_final" (of layer -1) are what comes out of those norms [.., width]. A tensor that `see` returns
    takes the value's place.
    """
    handles = []
    for layer in range(tower.layers):
        for part in ("out", "down"):
            handles.append(modules[f"blocks.{layer}.{part}"].register_forward_pre_hook(_before(part, layer, see)))
        for norm in ("norm1", "norm2"):
            handles.append(modules[f"blocks.{layer}.{norm}"].register_forward_hook(_behind(norm, layer, see)))
    if "norm_final" in modules:
        handles.append(modules["norm_final"].register_forward_hook(_behind("norm_final", -1, see)))
    return handles


def _before(part: str, layer: int, see: Callable[[str, int, Tensor], Tensor | None]) -> Any:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        changed = see(part, layer, inputs[0])
        return None if changed is None else (changed, *inputs[1:])

    return hook


def _behind(part: str, layer: int, see: Callable[[str, int, Tensor], Tensor | None]) -> Any:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        return see(part, layer, output)

    return hook


def runnable(source: ClipWeights) -> nn.Module:
    """The source's module. Raises UsageError where there is none that can read pairs."""
    if source.model is None or source.normalise is None or source.tokenize is None:
        raise UsageError(
            f"{source.name!r} cannot be run on calibration pairs: choose a strategy that looks at weights alone."
        )
    model: nn.Module = source.model
    return model


def encode(source: ClipWeights, calibration: Calibration, which: str, piece: slice) -> tuple[Tensor, Tensor]:
    """The source's embeddings [b, D] of a piece of the pairs, and which places of the tower's sequence count: [b, L] or [1, 1]."""
    assert source.normalise is not None
    assert source.tokenize is not None
    model = runnable(source)
    device = next(model.parameters()).device
    if which == "visual":
        pixels = source.normalise(calibration.images[piece].to(device))
        return model.encode_image(pixels), torch.ones(1, 1, device=device)  # type: ignore[operator]
    tokens = source.tokenize(calibration.captions[piece]).to(device)
    used = (
        tokens.flip(1).cumsum(1).flip(1) > 0
    )  # padding is 0 in every vocabulary here, and "!" inside a caption is not
    return model.encode_text(tokens), used.float()  # type: ignore[operator]


def pieces(calibration: Calibration, size: int = PIECE) -> list[slice]:
    """The pairs in pieces."""
    return [slice(i, min(i + size, len(calibration))) for i in range(0, len(calibration), size)]


@dataclass(frozen=True)
class Totals:
    """What a scan adds up over the pairs, per part and layer of a tower (see `watch`).

    Attributes:
        channels: (part, layer) -> [channels].
        heads: layer -> [heads].
        embed: [D].
    """

    channels: dict[tuple[str, int], Tensor]
    heads: dict[int, Tensor]
    embed: Tensor


def scan(
    source: ClipWeights,
    towers: Mapping[str, Tower | ResNetTower | None],
    calibration: Calibration,
    loss: Callable[[dict[str, Tensor]], Tensor] | None = None,
) -> dict[str, Totals]:
    """Per tower how much each part matters: its mean absolute activation, or with a loss |gradient x activation|.

    Gradient times activation is summed over the places of a sample (and the channels of a head) before its absolute value
    is taken: to first order, the change of that sample's loss when the part is removed.

    Args:
        source: what is scanned.
        towers: its towers, "visual" and "text" or one of them; None = read by the loss alone.
        calibration: the pairs.
        loss: from embeddings [b, D] per tower, unit length, to a scalar; None = activations alone.
    """
    model = runnable(source)
    channels: dict[str, dict[tuple[str, int], Tensor]] = {which: {} for which in towers}
    heads: dict[str, dict[int, Tensor]] = {which: {} for which in towers}
    embeds: dict[str, list[Tensor]] = {which: [] for which in towers}
    for piece in pieces(calibration):
        seen: dict[str, list[tuple[str, int, Tensor]]] = {}
        used: dict[str, Tensor] = {}
        given: dict[str, Tensor] = {}
        with torch.set_grad_enabled(loss is not None):
            for which, tower in towers.items():
                seen[which] = []
                see = _keeping(seen[which], loss is not None)
                with contextlib.ExitStack() as stack:
                    if tower is not None:
                        stack.enter_context(watched(model, tower, see))
                    raw, used[which] = encode(source, calibration, which, piece)
                given[which] = F.normalize(raw.float(), dim=-1)
            if loss is not None:
                for value in given.values():
                    if value.requires_grad:
                        value.retain_grad()
                loss(given).backward()  # type: ignore[no-untyped-call]
        for which, tower in towers.items():
            for part, layer, value in seen[which]:
                each = _per_sample(value, used[which], loss is not None)
                _add(channels[which], (part, layer), each.abs().sum(0))
                if part == "out" and tower is not None:
                    _add(heads[which], layer, each.view(len(each), tower.heads, -1).sum(2).abs().sum(0))
            value = given[which]
            embeds[which].append((value.detach() if value.grad is None else value.detach() * value.grad).cpu())
    result = {}
    for which in towers:
        every = torch.cat(embeds[which])
        spread = (every if loss is not None else every - every.mean(0)).abs().mean(0)
        result[which] = Totals(channels[which], heads[which], spread)
    return result


def contrastive(scale: float) -> Callable[[dict[str, Tensor]], Tensor]:
    """The contrastive loss of a piece of pairs at a logit scale."""

    def loss(embeds: dict[str, Tensor]) -> Tensor:
        logits = scale * embeds["visual"] @ embeds["text"].T
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    return loss


def _keeping(seen: list[tuple[str, int, Tensor]], gradient: bool) -> Callable[[str, int, Tensor], Tensor | None]:
    def see(part: str, layer: int, value: Tensor) -> Tensor | None:
        changed = None
        if gradient:
            if not value.requires_grad:  # every weight is frozen: gradients begin at the first norm
                value = changed = value.detach().requires_grad_()
            else:
                value.retain_grad()
        seen.append((part, layer, value))
        return changed

    return see


def _per_sample(value: Tensor, used: Tensor, gradient: bool) -> Tensor:
    """[b, channels]: a tensor's activation, absolute, or times its gradient, summed over the places that count.

    value: [b, channels], [b, places, channels] or [b, channels, H, W].
    """
    own = value.detach().float()
    own = own.abs() if not gradient else torch.zeros_like(own) if value.grad is None else own * value.grad.float()
    if own.ndim == 2:
        return own
    if own.ndim == 4:
        return own.sum((2, 3))
    if own.shape[:2] == used.shape:
        own = own * used[:, :, None]
    return own.sum(1)


def _add(totals: dict[Any, Tensor], key: Any, value: Tensor) -> None:
    totals[key] = totals[key] + value.cpu() if key in totals else value.cpu()

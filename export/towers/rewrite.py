"""Rewrites of a trained module into operations that every exporter lowers whole, without changing what it computes.

Left out: fusing or quantizing weights for one target (that is the target's), and anything that changes the numbers by
more than rounding. Each rewrite edits the module given to it, so give it a copy.
"""

from typing import Any

import torch
from torch import Tensor, nn

from students.folding import after_norm


def unit_length(x: Tensor) -> Tensor:
    """[b, D] -> [b, D] / its L2 norm. Divided by the largest magnitude first, so that no square overflows in fp16."""
    x = x / (x.abs().amax(-1, keepdim=True) + 1e-6)
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


class PlainAttention(nn.Module):
    """`nn.MultiheadAttention` (batch first) as linears, two matmuls and a softmax.

    The fused kernel brings a "safe softmax" (isnan, any, where) that mobile delegates do not take; this form they
    take whole. The query's 1/sqrt(d) is folded into its weights. Same call as the module it replaces.

    Raises:
        ValueError: for options that no open_clip tower uses (added bias rows, zero attention, sequence first).
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        if fused.bias_k is not None or fused.add_zero_attn or not fused.batch_first:
            raise ValueError(
                "attention with added key biases, zero attention or sequence-first inputs is not rewritten"
            )
        width, self.heads = fused.embed_dim, fused.num_heads
        if fused.in_proj_weight is not None:
            weights = fused.in_proj_weight.detach().chunk(3)
        else:
            weights = tuple(w.detach() for w in (fused.q_proj_weight, fused.k_proj_weight, fused.v_proj_weight))
        biases = [None, None, None] if fused.in_proj_bias is None else fused.in_proj_bias.detach().chunk(3)
        scale = (width // self.heads) ** -0.5
        self.query = _linear(weights[0] * scale, None if biases[0] is None else biases[0] * scale)
        self.key = _linear(weights[1], biases[1])
        self.value = _linear(weights[2], biases[2])
        self.output = fused.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """[b, Lq, D], [b, Lk, Dk], [b, Lk, Dv], mask [Lq, Lk] or [b, 1, Lq, Lk] added to the scores -> ([b, Lq, D], None)."""
        b, length, width = query.shape
        q = self._split(self.query(query))
        k = self._split(self.key(key))
        v = self._split(self.value(value))
        scores = q @ k.transpose(2, 3)
        if attn_mask is not None:
            scores = scores + attn_mask
        mixed = scores.softmax(-1) @ v
        return self.output(mixed.transpose(1, 2).reshape(b, length, width)), None

    def _split(self, x: Tensor) -> Tensor:
        b, length, width = x.shape
        return x.reshape(b, length, self.heads, width // self.heads).transpose(1, 2)


class PlainAttentionPool(nn.Module):
    """open_clip's AttentionPool2d, the head of OpenAI's ResNets, whose only query is the mean of all places.

    The source computes attention for every place, through the fused kernel, and keeps the first.
    """

    positions: Tensor

    def __init__(self, pool: Any) -> None:
        super().__init__()
        width, self.heads = pool.q_proj.in_features, pool.num_heads
        scale = (width // self.heads) ** -0.5
        self.register_buffer("positions", pool.positional_embedding.detach().clone())
        self.query = _linear(pool.q_proj.weight.detach() * scale, pool.q_proj.bias.detach() * scale)
        self.key, self.value, self.output = pool.k_proj, pool.v_proj, pool.c_proj

    def forward(self, x: Tensor) -> Tensor:
        """[b, C, H, W] -> [b, D]."""
        b, width = x.shape[:2]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positions
        q, k, v = (
            part.reshape(b, -1, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query(x[:, :1]), self.key(x), self.value(x))
        )
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v
        pooled: Tensor = self.output(mixed.transpose(1, 2).reshape(b, width))
        return pooled


class ScaleShift(nn.Module):
    """A frozen BatchNorm as x * scale + shift per channel, [b, C, H, W] or [b, C].

    A BatchNorm whose input has a second user (the residual of FastViT's attention blocks) is folded into the
    convolution before it by some quantizers, which corrupts the residual; a multiply and an add cannot be folded
    wrongly.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a BatchNorm without running statistics depends on its batch and cannot be exported")
        gain = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight.detach().clone()
        scale = gain * torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias.detach()
        shape = (1, -1, 1, 1) if isinstance(norm, nn.BatchNorm2d) else (1, -1)
        self.register_buffer("scale", scale.view(shape))
        self.register_buffer("shift", shift.view(shape))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x, same shape."""
        return x * self.scale + self.shift


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


class FixedRope(nn.Module):
    """Rotary position embeddings of one grid, computed once, with the interface that timm's blocks use."""

    embedding: Tensor

    def __init__(self, embedding: Tensor, grid: tuple[int, int]) -> None:
        super().__init__()
        self.feat_shape = grid
        self.register_buffer("embedding", embedding)

    def get_embed(self, shape: Any = None, dtype: Any = None) -> Tensor:
        """[N, 2 * dim]."""
        return self.embedding


def fix_input_size(visual: nn.Module, size: int) -> None:
    """Make a timm ViT that takes images of any size one that takes `size` x `size`, in place. Computes the same.

    It would resize its position embeddings at every call, of the right size too while it is exported, and no mobile runtime
    has that resizing.
    """
    trunk: Any = getattr(visual, "trunk", None)
    if not getattr(trunk, "dynamic_img_size", False) or not hasattr(trunk, "set_input_size"):
        return
    trunk.set_input_size(img_size=(size, size))
    trunk.dynamic_img_size, trunk.patch_embed.flatten = False, True
    if getattr(trunk, "rope", None) is not None:
        grid = trunk.patch_embed.grid_size
        trunk.rope = FixedRope(trunk.rope.get_embed(shape=grid), grid)


def rewrite_for_export(module: nn.Module) -> None:
    """Rewrite `module` in place: BatchNorms that could not be folded become `ScaleShift`, fused attention becomes plain.

    `module` must be in eval mode and already reparameterized (students.reparameterize). Computes the same.
    """
    for child in module.modules():
        if hasattr(child, "fused_attn"):  # timm's attention layers carry the choice per instance
            child.fused_attn = False  # type: ignore[assignment]
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, PlainAttention(child))
            elif type(child).__name__ == "AttentionPool2d" and hasattr(child, "c_proj"):  # open_clip's, not timm's
                setattr(parent, name, PlainAttentionPool(child))
            elif isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(parent, name, nn.Sequential(ScaleShift(child), after_norm(child)))

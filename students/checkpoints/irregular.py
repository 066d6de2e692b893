"""TinyCLIP's auto models: towers whose layers have different numbers of heads and MLP neurons, some none at all.

They are padded to the largest layer with heads and neurons of zeros, which add nothing to the residual stream: the padded model
computes the same, and its layers are alike, so that it can be inherited from. Where the heads then fill the width it is a plain
open_clip model; else it is one with attention of another width, which open_clip has no words for. After TinyCLIP (arXiv:2309.12314,
section 3.3) and the published shapes of its checkpoints. Left out: checkpoints from before its masks were folded.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core.clip.layouts import tinyclip_names
from distill.core.clip.model import build_clip
from distill.core.errors import DistillError

HEAD = 64  # channels of a head, which masks never cut
MASKS = "l0_module."
State = dict[str, Tensor]


@dataclass(frozen=True)
class Padded:
    """A model of regular shape.

    Attributes:
        model_cfg: its open_clip configuration; of `irregular_clip` where `open_clips` is false.
        state: its tensors in open_clip's names.
        heads, ffn: of each layer of the image and of the text tower.
        open_clips: whether heads fill the widths, so that open_clip builds it.
    """

    model_cfg: dict[str, Any]
    state: State
    heads: tuple[int, int]
    ffn: tuple[int, int]
    open_clips: bool


def regular(state: State, path: Path) -> Padded:
    """The tensors of an auto checkpoint, padded.

    Raises DistillError where the file is none, or holds masks that are not folded.
    """
    if any(MASKS in name and name.endswith("_loga") for name in state):
        raise DistillError(
            f"{path} was saved while TinyCLIP still learned its masks: they are not folded into the weights. Name a "
            "checkpoint from the end of a stage."
        )
    state = {name: value for name, value in tinyclip_names(state).items() if MASKS not in name}
    needed = (
        "visual.conv1.weight",
        "visual.positional_embedding",
        "positional_embedding",
        "token_embedding.weight",
        "text_projection",
    )
    if missing := [name for name in needed if name not in state]:
        raise DistillError(f"{path} is no checkpoint of a TinyCLIP with a ViT: it lacks {', '.join(missing)}.")
    towers = [_tower(state, prefix) for prefix in ("visual.", "")]
    widths = [state["visual.conv1.weight"].shape[0], state["positional_embedding"].shape[1]]
    plain = all(
        width % HEAD == 0 and max(heads) <= width // HEAD for width, (heads, _) in zip(widths, towers, strict=True)
    )
    heads = [width // HEAD if plain else max(heads) for width, (heads, _) in zip(widths, towers, strict=True)]
    ffn = [max(neurons) for _, neurons in towers]
    plain = plain and all(n == int(width * (n / width)) for n, width in zip(ffn, widths, strict=True))
    result = {name: value.float() for name, value in state.items() if ".resblocks." not in f".{name}"}
    for prefix, width, (own, _), n, neurons in zip(("visual.", ""), widths, towers, heads, ffn, strict=True):
        for layer in range(len(own)):
            result |= _block(state, f"{prefix}transformer.resblocks.{layer}.", width, n, neurons)
    return Padded(_config(state, towers, widths, heads, ffn), result, (heads[0], heads[1]), (ffn[0], ffn[1]), plain)


def _tower(state: State, prefix: str) -> tuple[list[int], list[int]]:
    """Heads and neurons of each layer; 0 where a layer has none."""
    pattern = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    layers = 1 + max(int(match[1]) for name in state if (match := pattern.match(name)))
    heads, neurons = [], []
    for layer in range(layers):
        block = f"{prefix}transformer.resblocks.{layer}."
        projected, up = state.get(f"{block}attn.in_proj_weight"), state.get(f"{block}mlp.c_fc.weight")
        heads.append(0 if projected is None else projected.shape[0] // (3 * HEAD))
        neurons.append(0 if up is None else up.shape[0])
    return heads, neurons


def _block(state: State, block: str, width: int, heads: int, neurons: int) -> State:
    """One layer with so many heads and neurons, those it lacks of zeros; a norm before a part that is not there does nothing."""

    def part(name: str, *shape: int) -> Tensor:
        found = state.get(block + name)
        return torch.zeros(shape) if found is None else found.float()

    inner = part("attn.in_proj_weight", 0, width).shape[0] // 3
    more = heads * HEAD - inner
    weight = part("attn.in_proj_weight", 0, width).reshape(3, inner, width)
    bias = part("attn.in_proj_bias", 0).reshape(3, inner)
    up = part("mlp.c_fc.weight", 0, width)
    rest = neurons - up.shape[0]
    ones = torch.ones(width)
    return {
        f"{block}ln_1.weight": state.get(f"{block}ln_1.weight", ones).float(),
        f"{block}ln_1.bias": part("ln_1.bias", width),
        f"{block}ln_2.weight": state.get(f"{block}ln_2.weight", ones).float(),
        f"{block}ln_2.bias": part("ln_2.bias", width),
        f"{block}attn.in_proj_weight": F.pad(weight, (0, 0, 0, more)).reshape(3 * heads * HEAD, width),
        f"{block}attn.in_proj_bias": F.pad(bias, (0, more)).reshape(-1),
        f"{block}attn.out_proj.weight": F.pad(part("attn.out_proj.weight", width, 0), (0, more)),
        f"{block}attn.out_proj.bias": part("attn.out_proj.bias", width),
        f"{block}mlp.c_fc.weight": F.pad(up, (0, 0, 0, rest)),
        f"{block}mlp.c_fc.bias": F.pad(part("mlp.c_fc.bias", 0), (0, rest)),
        f"{block}mlp.c_proj.weight": F.pad(part("mlp.c_proj.weight", width, 0), (0, rest)),
        f"{block}mlp.c_proj.bias": part("mlp.c_proj.bias", width),
    }


def _config(
    state: State, towers: list[tuple[list[int], list[int]]], widths: list[int], heads: list[int], ffn: list[int]
) -> dict[str, Any]:
    patch = state["visual.conv1.weight"].shape[-1]
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    layers = [len(own) for own, _ in towers]
    ratios = [neurons / width for neurons, width in zip(ffn, widths, strict=True)]
    return {
        "embed_dim": state["text_projection"].shape[1],
        "vision_cfg": {
            "image_size": grid * patch, "layers": layers[0], "width": widths[0], "patch_size": patch, "mlp_ratio": ratios[0],
        },
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "width": widths[1], "heads": heads[1], "layers": layers[1], "mlp_ratio": ratios[1],
        },
    }  # fmt: skip


class WideAttention(nn.Module):
    """Self-attention whose heads together are as wide as they like, in the place and names of torch's MultiheadAttention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * heads * HEAD, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * heads * HEAD))
        self.out_proj = nn.Linear(heads * HEAD, width)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """[b, L, width] thrice the same -> ([b, L, width], None), as torch's own with `need_weights` False."""
        b, length, _ = query.shape
        projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.reshape(b, length, 3, self.num_heads, HEAD).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(b, length, -1)), None


def irregular_clip(padded: Padded) -> nn.Module:
    """An open_clip model of a padded checkpoint whose heads do not fill the width, with its weights, in eval mode."""
    cfg = padded.model_cfg
    one_head = {  # open_clip builds blocks of any width with one head; their attention is replaced
        **cfg,
        "vision_cfg": {**cfg["vision_cfg"], "head_width": cfg["vision_cfg"]["width"]},
        "text_cfg": {**cfg["text_cfg"], "heads": 1},
    }
    clip: Any = build_clip(one_head, seed=0)
    transformers = (clip.visual.transformer, clip.transformer)
    for transformer, heads, neurons in zip(transformers, padded.heads, padded.ffn, strict=True):
        for block in transformer.resblocks:
            block.attn = WideAttention(transformer.width, heads)
            block.mlp.c_fc = nn.Linear(transformer.width, neurons)
            block.mlp.c_proj = nn.Linear(neurons, transformer.width)
    clip.load_state_dict(padded.state, strict=True)
    return clip.eval()  # type: ignore[no-any-return]

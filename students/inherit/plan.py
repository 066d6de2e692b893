"""Plans of inheritance: which part of the source each part of a student comes from, as lists of indices."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.strategy import STRATEGIES, Strategy

State = dict[str, Tensor]


@dataclass(frozen=True)
class TowerPlan:
    """Indices into the source tower, in the student's order.

    Attributes:
        layers: source layer of each student layer.
        hidden: source channels of the residual stream, one list shared by the whole tower.
        heads: per student layer, source heads kept.
        ffn: per student layer, source MLP neurons kept.
        positions: source positions kept.
        head_width: channels per head, equal in source and student.
    """

    layers: list[int]
    hidden: list[int]
    heads: list[list[int]]
    ffn: list[list[int]]
    positions: list[int]
    head_width: int


@dataclass(frozen=True)
class InheritancePlan:
    """What is inherited from the source, per tower; a tower in `skipped` keeps its own weights, with the reason."""

    strategy: str
    source: str
    source_sha256: str
    towers: dict[str, TowerPlan]
    skipped: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class _Shape:
    """The facts of a transformer tower that decide whether and how it can be sliced.

    Attributes:
        layers, width, ffn, tokens: how many layers, channels, MLP neurons per layer and positions; may shrink.
        head_width: channels per attention head.
        kind: what must be equal in source and student.
    """

    layers: int
    width: int
    ffn: int
    tokens: int
    head_width: int
    kind: dict[str, object]


def _shape(cfg: dict[str, Any], tower: str) -> _Shape:
    """The shape of the tower "visual" or "text" of a configuration. Raises UsageError when it is no plain transformer."""
    part = cfg["vision_cfg" if tower == "visual" else "text_cfg"]
    quick = bool(cfg.get("quick_gelu", False))
    ratio = part.get("mlp_ratio", 4.0)
    if tower == "visual":
        layers = part.get("layers", 12)
        if part.get("timm_model_name") or not isinstance(layers, int):
            raise UsageError("its image tower is not a plain transformer")
        if part.get("attentional_pool"):
            raise UsageError("its image tower pools by attention, which is not sliced here")
        width, head_width = part.get("width", 768), part.get("head_width", 64)
        tokens = (part["image_size"] // part.get("patch_size", 16)) ** 2 + 1
        kind: dict[str, object] = {"quick_gelu": quick, "patch_size": part.get("patch_size", 16), "tokens": tokens}
    else:
        if part.get("hf_model_name"):
            raise UsageError("its text tower is a Hugging Face model")
        if part.get("embed_cls"):
            raise UsageError("its text tower has a class embedding behind the tokens, which is not sliced here")
        layers, width = part.get("layers", 12), part.get("width", 512)
        head_width, tokens = width // part.get("heads", 8), part.get("context_length", 77)
        kind = {"quick_gelu": quick, "causal": not part.get("no_causal_mask", False)}
    kind.update(head_width=head_width, embed_dim=cfg["embed_dim"])
    return _Shape(layers, width, int(width * ratio), tokens, head_width, kind)


def tower_prefix(cfg: dict[str, Any], tower: str) -> str:
    """What the names of a tower's tensors begin with in the state dict of a model of configuration `cfg`."""
    if tower == "visual":
        return "visual."
    return "text." if cfg.get("custom_text") else ""


class _Norms(NamedTuple):
    """L2 norms of the weights that belong to each channel [width], and per layer kept to each head and each neuron."""

    hidden: Tensor
    heads: list[Tensor]
    ffn: list[Tensor]


def _norms(state: State, prefix: str, layers: list[int], head_width: int) -> _Norms:
    """The norms of the tower whose tensors' names begin with `prefix`, over the layers kept alone."""
    hidden = torch.zeros(())
    heads, ffn = [], []
    for layer in layers:
        block = f"{prefix}transformer.resblocks.{layer}."
        qkv, out = state[block + "attn.in_proj_weight"].float(), state[block + "attn.out_proj.weight"].float()
        up, down = state[block + "mlp.c_fc.weight"].float(), state[block + "mlp.c_proj.weight"].float()
        hidden = hidden + qkv.square().sum(0) + up.square().sum(0) + out.square().sum(1) + down.square().sum(1)
        per_channel = qkv.view(3, -1, qkv.shape[1]).square().sum((0, 2)) + out.square().sum(0)
        heads.append(per_channel.view(-1, head_width).sum(1).sqrt())
        ffn.append((up.square().sum(1) + down.square().sum(0)).sqrt())
    return _Norms(hidden.sqrt(), heads, ffn)


def _plan_tower(source: ClipWeights, cfg: dict[str, Any], tower: str, strategy: Strategy) -> TowerPlan:
    """How one tower is inherited. Raises UsageError with the reason when it cannot be."""
    old, new = _shape(source.model_cfg, tower), _shape(cfg, tower)
    for fact, value in new.kind.items():
        if old.kind[fact] != value:
            raise UsageError(f"{fact.replace('_', ' ')} differs: {old.kind[fact]} in the source, {value} here")
    for axis in ("layers", "width", "ffn", "tokens"):
        before, after = getattr(old, axis), getattr(new, axis)
        if after > before:
            raise UsageError(f"{axis} grows from {before} to {after}; inheritance only selects")
    layers = strategy.layers(old.layers, new.layers)
    norms = _norms(source.state, tower_prefix(source.model_cfg, tower), layers, old.head_width)
    heads_before, heads_after = old.width // old.head_width, new.width // new.head_width
    return TowerPlan(
        layers=layers,
        hidden=strategy.pick(old.width, new.width, norms.hidden),
        heads=[strategy.pick(heads_before, heads_after, layer) for layer in norms.heads],
        ffn=[strategy.pick(old.ffn, new.ffn, layer) for layer in norms.ffn],
        positions=list(range(new.tokens)),
        head_width=new.head_width,
    )


def make_plan(source: ClipWeights, model_cfg: dict[str, Any], strategy: str, vocabulary: str = "") -> InheritancePlan:
    """The plan by which a student inherits from `source`; a tower that cannot is in `skipped`, with the reason.

    Args:
        source: the model to inherit from.
        model_cfg: the student's open_clip configuration.
        strategy: a name in STRATEGIES.
        vocabulary: the student's; the text tower is inherited only where it is the source's.

    Raises UsageError for an unknown strategy.
    """
    chosen = STRATEGIES.get(strategy)()
    towers, skipped = {}, {}
    for tower in ("visual", "text"):
        try:
            if tower == "text" and source.vocabulary != vocabulary:
                raise UsageError("the vocabulary differs")
            towers[tower] = _plan_tower(source, model_cfg, tower, chosen)
        except UsageError as reason:
            skipped[tower] = str(reason)
    return InheritancePlan(strategy, source.name, source.sha256, towers, skipped)

"""Weight inheritance: a student starts from a selection of a larger CLIP's layers, channels, heads and neurons.

After TinyCLIP (arXiv 2309.12314 section 3.2), with its selection made explicit: a strategy only *produces* an
`InheritancePlan` of index lists, and one `apply_plan` slices open_clip transformer towers by it. A tower that differs
from the source's in kind (activation, causality, head width, patch size, token count, vocabulary) is not bent to fit:
it keeps its own initial weights and the plan says why. Left out: learned masks, activation and Taylor scores, optimizer
moments, layouts other than open_clip's.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from distill.core.registry import Registry

State = dict[str, Tensor]
Pick = Callable[[int, int, Tensor], list[int]]
STRATEGIES: Registry[Pick] = Registry("inheritance strategy", ())


@STRATEGIES.register("front")
def front(n: int, k: int, scores: Tensor) -> list[int]:
    """The first k of n: what TinyCLIP's code does for every width."""
    return list(range(k))


@STRATEGIES.register("uniform")
def uniform(n: int, k: int, scores: Tensor) -> list[int]:
    """k of n evenly spaced, both ends included."""
    return [0] if k == 1 else [round(i * (n - 1) / (k - 1)) for i in range(k)]


@STRATEGIES.register("magnitude")
def magnitude(n: int, k: int, scores: Tensor) -> list[int]:
    """The k of largest weight norm. scores: [n]."""
    return sorted(torch.topk(scores, k).indices.tolist())


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


def _shape(cfg: dict[str, Any], tower: str) -> dict[str, Any]:
    """The facts of a transformer tower that decide whether and how it can be sliced; raises UsageError if it is none."""
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
        kind = {"quick_gelu": quick, "patch_size": part.get("patch_size", 16), "tokens": tokens}
    else:
        if part.get("hf_model_name"):
            raise UsageError("its text tower is a Hugging Face model")
        if part.get("embed_cls"):
            raise UsageError("its text tower has a class embedding behind the tokens, which is not sliced here")
        layers, width = part.get("layers", 12), part.get("width", 512)
        head_width, tokens = width // part.get("heads", 8), part.get("context_length", 77)
        kind = {"quick_gelu": quick, "causal": not part.get("no_causal_mask", False)}
    kind.update(head_width=head_width, embed_dim=cfg["embed_dim"])
    return {"layers": layers, "width": width, "ffn": int(width * ratio), "tokens": tokens, "kind": kind}


def _prefix(cfg: dict[str, Any], tower: str) -> str:
    if tower == "visual":
        return "visual."
    return "text." if cfg.get("custom_text") else ""


def _scores(state: State, prefix: str, layers: list[int], head_width: int) -> dict[str, Any]:
    """L2 norms of the weights that belong to each hidden channel, head and neuron of the layers kept."""
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
    return {"hidden": hidden.sqrt(), "heads": heads, "ffn": ffn}


def _plan_tower(source: ClipWeights, cfg: dict[str, Any], tower: str, strategy: str) -> TowerPlan:
    """Raises UsageError with the reason when the tower cannot be inherited."""
    old, new = _shape(source.model_cfg, tower), _shape(cfg, tower)
    for fact, value in new["kind"].items():
        if old["kind"][fact] != value:
            raise UsageError(f"{fact.replace('_', ' ')} differs: {old['kind'][fact]} in the source, {value} here")
    for axis in ("layers", "width", "ffn", "tokens"):
        if new[axis] > old[axis]:
            raise UsageError(f"{axis} grows from {old[axis]} to {new[axis]}; inheritance only selects")
    pick = STRATEGIES.get(strategy)
    head_width = new["kind"]["head_width"]
    # Depth is spread evenly under every strategy but `front`: a layer's weight norm says little about its worth.
    layers = (front if strategy == "front" else uniform)(old["layers"], new["layers"], torch.zeros(old["layers"]))
    scores = _scores(source.state, _prefix(source.model_cfg, tower), layers, head_width)
    kept_heads = new["width"] // head_width
    return TowerPlan(
        layers=layers,
        hidden=pick(old["width"], new["width"], scores["hidden"]),
        heads=[pick(old["width"] // head_width, kept_heads, score) for score in scores["heads"]],
        ffn=[pick(old["ffn"], new["ffn"], score) for score in scores["ffn"]],
        positions=list(range(new["tokens"])),
        head_width=head_width,
    )


def make_plan(source: ClipWeights, model_cfg: dict[str, Any], strategy: str, vocabulary: str = "") -> InheritancePlan:
    """The plan by which a student of `model_cfg` inherits from `source`; towers that cannot are named in `skipped`."""
    STRATEGIES.get(strategy)
    towers, skipped = {}, {}
    for tower in ("visual", "text"):
        try:
            if tower == "text" and source.vocabulary != vocabulary:
                raise UsageError("the vocabulary differs")
            towers[tower] = _plan_tower(source, model_cfg, tower, strategy)
        except UsageError as reason:
            skipped[tower] = str(reason)
    return InheritancePlan(strategy, source.name, source.sha256, towers, skipped)


def _slice_block(state: State, old: str, new: str, plan: TowerPlan, layer: int) -> State:
    """One residual block. q, k and v of a head travel together."""
    hidden, ffn = torch.tensor(plan.hidden), torch.tensor(plan.ffn[layer])
    channels = (torch.tensor(plan.heads[layer])[:, None] * plan.head_width + torch.arange(plan.head_width)).flatten()
    width = state[old + "attn.out_proj.weight"].shape[1]
    qkv = torch.cat([channels + part * width for part in range(3)])
    result = {f"{new}{ln}.{p}": state[f"{old}{ln}.{p}"][hidden] for ln in ("ln_1", "ln_2") for p in ("weight", "bias")}
    result[new + "attn.in_proj_weight"] = state[old + "attn.in_proj_weight"][qkv][:, hidden]
    result[new + "attn.in_proj_bias"] = state[old + "attn.in_proj_bias"][qkv]
    result[new + "attn.out_proj.weight"] = state[old + "attn.out_proj.weight"][hidden][:, channels]
    result[new + "attn.out_proj.bias"] = state[old + "attn.out_proj.bias"][hidden]
    result[new + "mlp.c_fc.weight"] = state[old + "mlp.c_fc.weight"][ffn][:, hidden]
    result[new + "mlp.c_fc.bias"] = state[old + "mlp.c_fc.bias"][ffn]
    result[new + "mlp.c_proj.weight"] = state[old + "mlp.c_proj.weight"][hidden][:, ffn]
    result[new + "mlp.c_proj.bias"] = state[old + "mlp.c_proj.bias"][hidden]
    return result


def apply_plan(plan: InheritancePlan, source: ClipWeights, model_cfg: dict[str, Any]) -> State:
    """The student's inherited tensors (fp32), a subset of its state dict: load with `strict=False`.

    Raises UsageError when the plan was made for other weights.
    """
    if plan.source_sha256 != source.sha256:
        raise UsageError(f"The plan was made for other weights of {plan.source!r}: make it again.")
    result: State = {}
    for tower, tower_plan in plan.towers.items():
        old, new = _prefix(source.model_cfg, tower), _prefix(model_cfg, tower)
        hidden, positions = torch.tensor(tower_plan.hidden), torch.tensor(tower_plan.positions)
        state = source.state
        for index, layer in enumerate(tower_plan.layers):
            blocks = f"{old}transformer.resblocks.{layer}.", f"{new}transformer.resblocks.{index}."
            result.update(_slice_block(state, *blocks, tower_plan, index))
        for name in ("class_embedding", "ln_pre.weight", "ln_pre.bias", "ln_post.weight", "ln_post.bias", "conv1.weight",
                     "ln_final.weight", "ln_final.bias", "proj", "text_projection"):  # fmt: skip
            if old + name in state:
                result[new + name] = state[old + name][hidden]
        result[new + "positional_embedding"] = state[old + "positional_embedding"][positions][:, hidden]
        if tower == "text":
            result[new + "token_embedding.weight"] = state[old + "token_embedding.weight"][:, hidden]
    if len(plan.towers) == 2:
        result["logit_scale"] = source.state["logit_scale"]
    return {name: value.float().clone() for name, value in result.items()}

"""Slicing a source's tensors by a plan."""

from typing import Any

import torch

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.plan import InheritancePlan, State, TowerPlan, tower_prefix


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
        old, new = tower_prefix(source.model_cfg, tower), tower_prefix(model_cfg, tower)
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

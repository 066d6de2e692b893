"""Where each part of a transformer tower lies in a state dict: one table of names per library, no code of its own.

A *role* is a part under one name for all libraries ("q.weight", "up.bias", "patch.weight"). A table maps the names of a
library's tensors to roles; several roles in one entry are stacked along the first axis ("q.weight k.weight v.weight"), and
a role that ends in ^T is stored transposed. Which axis of a plan cuts which axis of a tensor depends on the role alone
(`AXES`). Left out: ResNets, whose channels are named per stage (`students.inherit.resnets`).
"""

from dataclasses import dataclass

CUT = {  # role -> the axis of a plan along each axis of its tensor; None = whole, "same" = inherited at equal size only
    "norm1.weight": ("hidden",),
    "norm2.weight": ("hidden",),
    "scale1": ("hidden",),
    "scale2": ("hidden",),
    "q.weight": ("channels", "hidden"),
    "k.weight": ("channels", "hidden"),
    "v.weight": ("channels", "hidden"),
    "q.bias": ("channels",),
    "k.bias": ("channels",),
    "v.bias": ("channels",),
    "out.weight": ("hidden", "channels"),
    "out.bias": ("hidden",),
    "up.weight": ("ffn", "hidden"),
    "up.bias": ("ffn",),
    "down.weight": ("hidden", "ffn"),
    "down.bias": ("hidden",),
    "patch.weight": ("hidden", None, None, None),
    "patch.bias": ("hidden",),
    "class": ("hidden",),
    "positions": ("positions", "hidden"),
    "tokens": ("vocab", "hidden"),
    "types": (None, "hidden"),
    "norm_pre.weight": ("hidden",),
    "norm_final.weight": ("hidden",),
    "projection.weight": ("embed", "hidden"),
    "projection.bias": ("embed",),
    "projection1.weight": ("same", "hidden"),
    "projection2.weight": ("embed", "same"),
    "pooler.weight": ("hidden", "hidden"),
    "pooler.bias": ("hidden",),
    "pool.latent": (None, None, "hidden"),
}
AXES = {
    **CUT,
    **{name.replace("weight", "bias"): CUT[name] for name in CUT if name.startswith("norm")},
    **{f"pool.{part}.weight": ("same", "hidden") for part in ("q", "kv", "fc1")},
    **{f"pool.{part}.bias": ("same",) for part in ("q", "kv", "fc1")},
    **{f"pool.{part}.weight": ("hidden", "same") for part in ("out", "fc2")},
    **{f"pool.{part}.bias": ("hidden",) for part in ("out", "fc2")},
    **{f"pool.norm.{kind}": ("hidden",) for kind in ("weight", "bias")},
}


def _both(table: dict[str, str]) -> dict[str, str]:
    """The table with each entry that has a {} written out for weight and bias."""
    return {
        name.format(kind): roles.format(*[kind] * roles.count("{}"))
        for name, roles in table.items()
        for kind in (("weight", "bias") if "{}" in name else ("",))
    }


@dataclass(frozen=True)
class Layout:
    """How one library names the tensors of a transformer tower.

    Attributes:
        library: what messages call it.
        tower: "visual" or "text".
        prefixes: what the tower's names may begin with.
        blocks: what stands between the prefix and the number of a block.
        block: name inside a block -> roles.
        outer: name behind the prefix -> roles, of the tensors outside the blocks.
        beside: whole name -> roles, of tensors that the library keeps outside the prefix.
        norm_first: whether each block normalises its input (else its output, as BERT does).
    """

    library: str
    tower: str
    prefixes: tuple[str, ...]
    blocks: str
    block: dict[str, str]
    outer: dict[str, str]
    beside: dict[str, str]
    norm_first: bool = True


_OPEN_CLIP = _both(
    {
        "ln_1.{}": "norm1.{}", "attn.in_proj_{}": "q.{} k.{} v.{}", "attn.out_proj.{}": "out.{}", "ln_2.{}": "norm2.{}",
        "mlp.c_fc.{}": "up.{}", "mlp.c_proj.{}": "down.{}", "ls_1.gamma": "scale1", "ls_2.gamma": "scale2",
    }
)  # fmt: skip
_TIMM = _both(
    {
        "norm1.{}": "norm1.{}", "attn.qkv.{}": "q.{} k.{} v.{}", "attn.proj.{}": "out.{}", "norm2.{}": "norm2.{}",
        "mlp.fc1.{}": "up.{}", "mlp.fc2.{}": "down.{}", "ls1.gamma": "scale1", "ls2.gamma": "scale2",
    }
)  # fmt: skip
_HF_CLIP = _both(
    {
        "layer_norm1.{}": "norm1.{}", "self_attn.q_proj.{}": "q.{}", "self_attn.k_proj.{}": "k.{}", "self_attn.v_proj.{}": "v.{}",
        "self_attn.out_proj.{}": "out.{}", "layer_norm2.{}": "norm2.{}", "mlp.fc1.{}": "up.{}", "mlp.fc2.{}": "down.{}",
    }
)  # fmt: skip
_BERT = _both(
    {
        "attention.self.query.{}": "q.{}", "attention.self.key.{}": "k.{}", "attention.self.value.{}": "v.{}",
        "attention.output.dense.{}": "out.{}", "attention.output.LayerNorm.{}": "norm1.{}",
        "intermediate.dense.{}": "up.{}", "output.dense.{}": "down.{}", "output.LayerNorm.{}": "norm2.{}",
    }
)  # fmt: skip
_TIMM_POOL = {f"attn_pool.{name}.{{}}": f"pool.{role}.{{}}" for name, role in
              (("q", "q"), ("kv", "kv"), ("proj", "out"), ("norm", "norm"), ("mlp.fc1", "fc1"), ("mlp.fc2", "fc2"))}  # fmt: skip

LAYOUTS = (
    Layout(
        "open_clip", "visual", ("visual.",), "transformer.resblocks.", _OPEN_CLIP,
        _both(
            {
                "conv1.{}": "patch.{}", "class_embedding": "class", "positional_embedding": "positions",
                "ln_pre.{}": "norm_pre.{}", "ln_post.{}": "norm_final.{}", "proj": "projection.weight^T",
            }
        ), {},
    ),
    Layout(
        "open_clip", "text", ("text.", ""), "transformer.resblocks.", _OPEN_CLIP,
        _both(
            {
                "token_embedding.weight": "tokens", "positional_embedding": "positions", "cls_emb": "class",
                "ln_final.{}": "norm_final.{}", "text_projection": "projection.weight^T",
                "text_projection.{}": "projection.{}",
            }
        ), {},
    ),
    Layout(
        "timm", "visual", ("visual.trunk.", "trunk."), "blocks.", _TIMM,
        _both(
            {
                "patch_embed.proj.{}": "patch.{}", "cls_token": "class", "pos_embed": "positions", "norm_pre.{}": "norm_pre.{}",
                "norm.{}": "norm_final.{}", "fc_norm.{}": "norm_final.{}", "head.{}": "projection.{}",
                "attn_pool.latent": "pool.latent", **_TIMM_POOL,
            }
        ),
        _both({"visual.head.proj.{}": "projection.{}", "head.proj.{}": "projection.{}"}),
    ),
    Layout(
        "Hugging Face CLIP", "visual", ("vision_model.",), "encoder.layers.", _HF_CLIP,
        _both(
            {
                "embeddings.patch_embedding.{}": "patch.{}", "embeddings.class_embedding": "class",
                "embeddings.position_embedding.weight": "positions", "pre_layrnorm.{}": "norm_pre.{}",
                "post_layernorm.{}": "norm_final.{}",
            }
        ), {"visual_projection.weight": "projection.weight"},
    ),
    Layout(
        "Hugging Face CLIP", "text", ("text_model.",), "encoder.layers.", _HF_CLIP,
        _both(
            {
                "embeddings.token_embedding.weight": "tokens", "embeddings.position_embedding.weight": "positions",
                "final_layer_norm.{}": "norm_final.{}",
            }
        ), {"text_projection.weight": "projection.weight"},
    ),
    Layout(
        "Hugging Face BERT", "text", ("text.transformer.",), "encoder.layer.", _BERT,
        _both(
            {
                "embeddings.word_embeddings.weight": "tokens", "embeddings.position_embeddings.weight": "positions",
                "embeddings.token_type_embeddings.weight": "types", "embeddings.LayerNorm.{}": "norm_pre.{}",
                "pooler.dense.{}": "pooler.{}",
            }
        ),
        {
            "text.proj.weight": "projection.weight", "text.proj.0.weight": "projection1.weight",
            "text.proj.2.weight": "projection2.weight",
        },
        norm_first=False,
    ),
)  # fmt: skip

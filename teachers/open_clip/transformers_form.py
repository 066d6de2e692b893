"""A CLIP or SigLIP saved by the transformers package, in open_clip's words: configuration, preprocessing, names of tensors.

The names are those of transformers' CLIPModel and SiglipModel on one side, open_clip's CLIP and CustomTextCLIP (with timm's ViT for
SigLIP) on the other. Reads JSON files alone; the tensors are handed in. Left out: SigLIP 2's towers of any aspect ratio (NaFlex).
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
KINDS = ("clip", "siglip")
CLIP_VOCABULARY = 49_408
# (width, layers) of SigLIP's image tower -> timm's word for that size.
SIGLIP_SIZES = {(768, 12): "base", (1024, 24): "large", (1152, 27): "so400m", (1536, 40): "giantopt"}
BILINEAR = 2  # Pillow's number, as preprocessors store it; 3 is bicubic
# What both sides call the parts of one transformer block: transformers' -> open_clip's, timm's.
CLIP_BLOCK = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
TIMM_BLOCK = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}


def model_type(path: Path) -> str:
    """The "model_type" of the config.json in a folder; "" where there is none."""
    try:
        value = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(value.get("model_type", "")) if isinstance(value, dict) else ""


def open_clip_config(path: Path) -> dict[str, Any]:
    """{"model_cfg", "preprocess_cfg"} of the model in a folder, as an open_clip_config.json would have them.

    Raises DistillError for a SigLIP whose image tower has no size of a published one.
    """
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    vision, text = _tables(config)
    size = int(vision["image_size"])
    model_cfg = _clip(config, vision, text) if config["model_type"] == "clip" else _siglip(vision, text)
    if (path / "tokenizer.json").is_file():
        model_cfg["text_cfg"]["hf_tokenizer_name"] = str(config.get("_name_or_path") or path.resolve().name)
        if config["model_type"] == "siglip":  # big_vision's cleaning, which its tokenizers were trained behind
            model_cfg["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    elif int(text["vocab_size"]) != CLIP_VOCABULARY:
        raise DistillError(
            f"{path} has no tokenizer.json, and its vocabulary is not CLIP's own. Put that file beside it."
        )
    return {"model_cfg": model_cfg, "preprocess_cfg": _preprocess(path, size, config["model_type"])}


def _tables(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The vision and the text table, with transformers' defaults for what was not stored."""
    try:
        from transformers import AutoConfig
    except ImportError:
        raise DistillError("A model saved by the transformers package needs it: pip install transformers.") from None
    whole = AutoConfig.for_model(**config)
    return whole.vision_config.to_dict(), whole.text_config.to_dict()


def _clip(config: dict[str, Any], vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    if vision["hidden_act"] != text["hidden_act"] or vision["hidden_act"] not in ("quick_gelu", "gelu"):
        raise DistillError(
            f"Activations {vision['hidden_act']!r} and {text['hidden_act']!r} of a CLIP are not known here."
        )
    end = text.get("eos_token_id")
    # transformers pools at the largest id where the end token is said to be 2, which old configurations say wrongly.
    pooled_by_id = end not in (None, 2, int(text["vocab_size"]) - 1)
    return {
        "embed_dim": int(config.get("projection_dim", 512)),
        "quick_gelu": vision["hidden_act"] == "quick_gelu",
        "custom_text": pooled_by_id,
        "vision_cfg": {
            "image_size": int(vision["image_size"]),
            "patch_size": int(vision["patch_size"]),
            "width": int(vision["hidden_size"]),
            "layers": int(vision["num_hidden_layers"]),
            "head_width": int(vision["hidden_size"]) // int(vision["num_attention_heads"]),
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
            "norm_kwargs": {"eps": float(vision["layer_norm_eps"])},
        },
        "text_cfg": {
            **_text_shape(text),
            **({"pool_type": "eos", "eos_id": int(end or 0)} if pooled_by_id else {}),
        },
    }


def _text_shape(text: dict[str, Any]) -> dict[str, Any]:
    """What the text towers of both kinds are told by."""
    return {
        "context_length": int(text["max_position_embeddings"]),
        "vocab_size": int(text["vocab_size"]),
        "width": int(text["hidden_size"]),
        "heads": int(text["num_attention_heads"]),
        "layers": int(text["num_hidden_layers"]),
        "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        "norm_kwargs": {"eps": float(text["layer_norm_eps"])},
    }


def _siglip(vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    shape = int(vision["hidden_size"]), int(vision["num_hidden_layers"])
    if shape not in SIGLIP_SIZES:
        raise DistillError(
            f"A SigLIP image tower of width {shape[0]} and {shape[1]} layers has no size of a published one "
            f"({', '.join(SIGLIP_SIZES.values())}), and cannot be built by timm."
        )
    name = f"vit_{SIGLIP_SIZES[shape]}_patch{vision['patch_size']}_siglip_{vision['image_size']}"
    return {
        "embed_dim": shape[0],
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": int(vision["image_size"]), "timm_model_name": name, "timm_model_pretrained": False,
            "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {
            **_text_shape(text),
            "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
            "act_kwargs": {"approximate": "tanh"} if "tanh" in text["hidden_act"] else {},
        },
    }  # fmt: skip


def _preprocess(path: Path, size: int, kind: str) -> dict[str, Any]:
    """Of preprocessor_config.json; without one, what the published models of the kind have."""
    siglip = kind == "siglip"
    known: dict[str, Any] = {}
    if (path / PREPROCESSOR).is_file():
        known = json.loads((path / PREPROCESSOR).read_text(encoding="utf-8"))
    mean = [0.5] * 3 if siglip else [0.48145466, 0.4578275, 0.40821073]
    std = [0.5] * 3 if siglip else [0.26862954, 0.26130258, 0.27577711]
    crops = bool(known.get("do_center_crop", not siglip))
    return {
        "size": [size, size],
        "mean": known.get("image_mean", mean),
        "std": known.get("image_std", std),
        "interpolation": "bilinear" if known.get("resample", 3) == BILINEAR else "bicubic",
        "resize_mode": "shortest" if crops else "squash",
    }


def open_clip_state(state: "dict[str, Tensor]", kind: str, custom_text: bool) -> "dict[str, Tensor]":
    """The tensors by open_clip's names.

    Args:
        kind: "clip" or "siglip", of `model_type`.
        custom_text: whether the text tower is a module of its own there, as the configuration says.
    """
    import torch

    found: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.endswith("position_ids"):  # a buffer of old versions
            continue
        if ".self_attn." in name and not name.split(".self_attn.")[1].startswith("out_proj"):
            block, part = name.split(".self_attn.")
            letter, tail = part[0], part.split(".")[-1]
            halves.setdefault(f"{block}.self_attn.{tail}", {})[letter] = value
            continue
        for new, tensor in _renamed(name, value, kind):
            found[new] = tensor
    for name, parts in halves.items():
        whole = torch.cat([parts[letter] for letter in "qkv"])
        found[_attention(name, kind)] = whole
    if not custom_text:
        return found
    return {name if name.startswith(("visual.", "logit_")) else f"text.{name}": value for name, value in found.items()}


def _attention(name: str, kind: str) -> str:
    """Of a block's joined query, key and value."""
    block, tail = name.split(".self_attn.")
    if block.startswith("vision_model.") and kind == "siglip":
        return f"visual.trunk.blocks.{block.split('.')[-1]}.attn.qkv.{tail}"
    where = "visual." if block.startswith("vision_model.") else ""
    return f"{where}transformer.resblocks.{block.split('.')[-1]}.attn.in_proj_{tail}"


def _renamed(name: str, value: "Tensor", kind: str) -> "list[tuple[str, Tensor]]":
    side, _, rest = name.partition(".")
    if side == "vision_model":
        return _siglip_vision(rest, value) if kind == "siglip" else [_clip_vision(rest, value)]
    if side == "text_model":
        return [_text(rest, value)]
    if name in ("visual_projection.weight", "text_projection.weight"):
        return [({"visual_projection.weight": "visual.proj"}.get(name, "text_projection"), value.T.contiguous())]
    return [(name, value.reshape(()) if name in ("logit_scale", "logit_bias") else value)]


def _block(rest: str, names: dict[str, str]) -> tuple[str, str]:
    """("3", "ln_1.weight") of "encoder.layers.3.layer_norm1.weight"."""
    _, _, index, part = rest.split(".", 3)
    stem, _, tail = part.rpartition(".")
    return index, f"{names.get(stem, stem)}.{tail}"


def _clip_vision(rest: str, value: "Tensor") -> "tuple[str, Tensor]":
    if rest.startswith("encoder.layers."):
        index, part = _block(rest, CLIP_BLOCK)
        return f"visual.transformer.resblocks.{index}.{part}", value
    whole = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "pre_layrnorm.weight": "ln_pre.weight", "pre_layrnorm.bias": "ln_pre.bias",  # so spelt there
        "post_layernorm.weight": "ln_post.weight", "post_layernorm.bias": "ln_post.bias",
    }  # fmt: skip
    return f"visual.{whole.get(rest, rest)}", value


def _text(rest: str, value: "Tensor") -> "tuple[str, Tensor]":
    if rest.startswith("encoder.layers."):
        index, part = _block(rest, CLIP_BLOCK)
        return f"transformer.resblocks.{index}.{part}", value
    whole = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
        "head.weight": "text_projection.weight", "head.bias": "text_projection.bias",
    }  # fmt: skip
    return whole.get(rest, rest), value


def _siglip_vision(rest: str, value: "Tensor") -> "list[tuple[str, Tensor]]":
    if rest.startswith("encoder.layers."):
        index, part = _block(rest, TIMM_BLOCK)
        return [(f"visual.trunk.blocks.{index}.{part}", value)]
    if rest.startswith("head.attention.in_proj_"):
        tail, width = rest.rpartition("_")[2], value.shape[0] // 3
        pool = "visual.trunk.attn_pool"
        return [(f"{pool}.q.{tail}", value[:width].clone()), (f"{pool}.kv.{tail}", value[width:].clone())]
    whole = {
        "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
        "embeddings.patch_embedding.bias": "patch_embed.proj.bias",
        "post_layernorm.weight": "norm.weight", "post_layernorm.bias": "norm.bias",
        "head.probe": "attn_pool.latent",
        "head.attention.out_proj.weight": "attn_pool.proj.weight", "head.attention.out_proj.bias": "attn_pool.proj.bias",
        "head.layernorm.weight": "attn_pool.norm.weight", "head.layernorm.bias": "attn_pool.norm.bias",
        "head.mlp.fc1.weight": "attn_pool.mlp.fc1.weight", "head.mlp.fc1.bias": "attn_pool.mlp.fc1.bias",
        "head.mlp.fc2.weight": "attn_pool.mlp.fc2.weight", "head.mlp.fc2.bias": "attn_pool.mlp.fc2.bias",
    }  # fmt: skip
    if rest == "embeddings.position_embedding.weight":
        return [("visual.trunk.pos_embed", value[None])]
    return [(f"visual.trunk.{whole.get(rest, rest)}", value)]


def licence_of(path: Path) -> str:
    """The licence that the model card in a folder states (README.md, its header); "" where it states none."""
    card = path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    header = re.match(r"---\n(.*?)\n---", text, re.S)
    stated = re.search(r"^license:\s*(\S+)", header[1], re.M) if header else None
    return stated[1] if stated else ""


def weights_of(path: Path) -> list[Path]:
    """The files that hold the weights: one, or the shards that an index names.

    Raises DistillError where there is none.
    """
    for name in WEIGHTS:
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            return [path / shard for shard in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    raise DistillError(f"There are no weights in {path} ({' or '.join(WEIGHTS)}). Copy the whole repository.")

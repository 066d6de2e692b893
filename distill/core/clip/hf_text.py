"""Text towers of Hugging Face kind that an open_clip configuration describes itself, so that no hub is asked for their shape.

Where `text_cfg` has `hf_model_name = "bert"`, its own words (layers, width, heads, mlp_ratio, vocab_size, context_length, pad_id)
are the whole description; transformers' configuration is made from them. open_clip builds such a tower from a folder with a
config.json, which is written beside the weights of a saved model and, while a new one is built, into a temporary folder.
Importable without torch. Left out: the tokenizer (`distill.core.clip.tokenizer`).
"""

import contextlib
import importlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.core.torch_compat import quiet_import

LONGEST = 512  # positions of every published BERT, so that their tables fit


def is_described(text_cfg: Mapping[str, Any]) -> bool:
    """Whether the words of a text_cfg describe a Hugging Face tower in full."""
    return text_cfg.get("hf_model_name") in _KINDS and "layers" in text_cfg


def transformers_config(text_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' configuration of the tower that a text_cfg describes."""
    return _KINDS[text_cfg["hf_model_name"]](text_cfg)


@contextlib.contextmanager
def at_hand(text_cfg: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The text_cfg with a described tower's `hf_model_name` as a folder that is there while the context lasts."""
    if not is_described(text_cfg):
        yield text_cfg
        return
    with contextlib.suppress(ImportError), quiet_import():  # without transformers, open_clip says what is missing
        kind = text_cfg["hf_model_name"]
        importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    with tempfile.TemporaryDirectory(prefix="distill-text-tower-") as folder:
        described = json.dumps(transformers_config(text_cfg))
        (Path(folder) / "config.json").write_text(described, encoding="utf-8")
        yield {**text_cfg, "hf_model_name": folder}


def _bert(text_cfg: Mapping[str, Any]) -> dict[str, Any]:
    width = int(text_cfg["width"])
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": width,
        "num_hidden_layers": int(text_cfg["layers"]),
        "num_attention_heads": int(text_cfg["heads"]),
        "intermediate_size": int(width * text_cfg.get("mlp_ratio", 4.0)),
        "vocab_size": int(text_cfg["vocab_size"]),
        "max_position_embeddings": max(LONGEST, int(text_cfg.get("context_length", 77))),
        "pad_token_id": int(text_cfg.get("pad_id", 0)),
        # CLIPs are trained without dropout, and a student follows embeddings that have none.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


_KINDS = {"bert": _bert}

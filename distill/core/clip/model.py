"""Building open_clip's modules from their configuration, without its factory, which logs to the root logger and may download.

Importable without torch and open_clip: the functions import them. Left out: weights (`distill.core.clip.folder`,
`teachers.open_clip.model`).
"""

import contextlib
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distill.core.clip.hf_text import at_hand
from distill.core.errors import DistillError
from distill.core.torch_compat import ensure_torchvision, quiet_import

if TYPE_CHECKING:
    from torch import nn


MIXED = (
    "distill_mixed_kernel"  # of text_cfg: the tower is that of `distill.core.clip.mixed_text`, its convolutions so long
)
# What open_clip's text transformers, transformers' BERT family and its T5 family call their table of tokens.
TOKEN_TABLES = ("token_embedding", "word_embeddings", "embed_tokens", "shared.weight")


def import_open_clip() -> Any:
    """The module open_clip. Importing it elsewhere first would fail beside a torchvision that does not fit torch."""
    ensure_torchvision()
    import open_clip

    return open_clip


def build_clip(model_cfg: dict[str, Any], *, seed: int, device: str | None = None) -> "nn.Module":
    """An open_clip CLIP, CustomTextCLIP or CoCa with open_clip's own random weights. Nothing is downloaded.

    Args:
        model_cfg: open_clip's configuration of the model (embed_dim, vision_cfg, text_cfg, ...); left as it is.
        seed: of the weights; torch's global generator is left as it was.
        device: where the tensors are made; "meta" allocates nothing, for counting. None = the CPU.

    Raises:
        DistillError: the text tower's own configuration is only on the Hub, or its kind cannot be built.
    """
    import_open_clip()
    import torch
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    config = copy.deepcopy(model_cfg)
    config["vision_cfg"]["timm_model_pretrained"] = False
    hf_text = config["text_cfg"].get("hf_model_name")
    if hf_text:
        config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or bool(hf_text)
    kind: Callable[..., nn.Module] = CLIP
    if custom:
        kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP
    place = torch.device(device) if device else contextlib.nullcontext()
    try:
        mixed = config["text_cfg"].pop(MIXED, None)
        with torch.random.fork_rng(devices=[]), at_hand(config["text_cfg"]) as text_cfg, quiet_import(), place:
            torch.manual_seed(seed)
            model = kind(**{**config, "text_cfg": text_cfg})
            if mixed is not None:
                from distill.core.clip.mixed_text import MixedTransformer

                text: Any = model.text
                text.transformer = MixedTransformer(text.transformer, int(mixed), text_cfg.get("mlp_ratio", 4.0))
            if kind is CoCa:  # open_clip leaves this one as uninitialised memory
                projection = model.get_parameter("text_decoder.text_projection")
                torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
            return model
    except TypeError as error:
        if not hf_text:
            raise
        raise DistillError(
            f"open_clip cannot build the text tower {hf_text} with the transformers package that is installed: {error}. Choose "
            "a model with another text tower."
        ) from None
    except (OSError, ImportError) as error:
        if not hf_text:
            raise
        raise DistillError(
            f"The text tower {hf_text} of this model is described only on the Hugging Face Hub, and cannot be had here "
            f"({' '.join(str(error).split())[:160]}). Connect once, or choose a teacher with a text tower of open_clip."
        ) from None


def count_parameters(clip: "nn.Module") -> dict[str, int]:
    """The three counts of an open_clip module: image tower, text blocks, token embedding (logit scale in none).

    A CoCa has a fourth, "caption_decoder", which none of its embeddings needs.
    """
    counts = {"image": 0, "text": 0, "token_embedding": 0}
    for name, parameter in clip.named_parameters():
        if name.startswith("visual."):
            counts["image"] += parameter.numel()
        elif name.startswith("text_decoder."):
            counts["caption_decoder"] = counts.get("caption_decoder", 0) + parameter.numel()
        elif any(table in name for table in TOKEN_TABLES):
            counts["token_embedding"] += parameter.numel()
        elif name not in ("logit_scale", "logit_bias"):
            counts["text"] += parameter.numel()
    return counts

"""Tensors of published checkpoints, in the names and shapes of today's open_clip: whose layout it is, and how it is turned.

Known are open_clip's own earlier layouts, OpenAI's, Apple's MobileCLIP (all of the first version; the second is open_clip's),
TinyCLIP's with an encoder each for images and texts, and any of them inside one object of a training program. Left out: reading
files (`distill.core.clip.checkpoint`), the transformers package's layout (`teachers.open_clip.transformers_form`).
"""

import contextlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

OPENAI_FACTS = ("input_resolution", "context_length", "vocab_size")  # numbers that lie among OpenAI's tensors
PARALLEL = "module"
# First parts of TinyCLIP's names, of its class and of what holds the same modules without DistributedDataParallel.
TINYCLIP = {
    *("_image_encoder", "_text_encoder", "_logit_scale"),
    *("image_encoder_without_ddp", "text_encoder_without_ddp", "logit_scale_without_ddp"),
}
APPLE = {"image_encoder", "text_encoder"}
# Parts of a RepMixer block in Apple's names -> in those of `distill.core.clip.mixed_text`.
MIXER = (
    (r"\.rbr_skip\.", ".skip."),
    (r"\.rbr_conv\.0\.conv\.", ".conv.0."),
    (r"\.rbr_conv\.0\.bn\.", ".conv.1."),
    (r"\.convffn\.conv\.conv\.", ".convffn.conv.0."),
    (r"\.convffn\.conv\.bn\.", ".convffn.conv.1."),
)


def open_clip_names(model: Any, state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """`state` in the names and shapes of an open_clip model, as far as its layout is known; what is left is as it was.

    Args:
        model: open_clip's CLIP, CustomTextCLIP or CoCa; read, not changed.
        state: tensors by plain names, see `distill.core.clip.checkpoint.read_checkpoint`.
    """
    import torch
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    state = {name: value for name, value in state.items() if name not in OPENAI_FACTS}
    state = tinyclip_names(_without_owner(state, model))
    with contextlib.suppress(
        AttributeError, KeyError
    ):  # Apple's names for another model: `load_weights` says whose they are
        state = _mixed_names(dict(convert_state_dict(model, state)), model)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # once a vector of one element, now a scalar
        wanted = getattr(model, name, None)
        if name in state and wanted is not None and state[name].numel() == 1:
            state[name] = state[name].reshape(wanted.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_scale" in state and "logit_bias" not in state:
        state["logit_bias"] = torch.zeros_like(state["logit_scale"])
    state.pop("text.transformer.embeddings.position_ids", None)  # transformers before 4.31 stored it
    with contextlib.suppress(AssertionError, AttributeError, RuntimeError):  # of another width: `load_weights` says so
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    return state


def tinyclip_names(state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """TinyCLIP's names without its encoders and their wrappers: the rest is open_clip's; other names as they are."""
    if not any(name.split(".")[0] in TINYCLIP for name in state):
        return state
    plain = {}
    for name, value in state.items():
        parts = [part for part in name.split(".") if part != PARALLEL]
        plain[".".join(parts[1:] if parts[0] in TINYCLIP else parts)] = value
    return plain


def _without_owner(state: "dict[str, Tensor]", model: Any) -> "dict[str, Tensor]":
    """The names without what all of them begin with, where that is no part of the model: "model.", "clip.", "student.clip."."""
    own = {name.split(".")[0] for name in model.state_dict()} | TINYCLIP | APPLE
    while True:
        firsts = {name.partition(".")[0] for name in state}
        if len(firsts) != 1 or firsts <= own or not all("." in name for name in state):
            return state
        state = {name.partition(".")[2]: value for name, value in state.items()}


def _mixed_names(state: "dict[str, Tensor]", model: Any) -> "dict[str, Tensor]":
    """Of MobileCLIP-S0, whose first and last block of text are RepMixers, which open_clip has counted as layers."""
    transformer: Any = getattr(getattr(model, "text", None), "transformer", None)
    blocks = "text.transformer.resblocks."
    if not hasattr(transformer, "before") or f"{blocks}0.token_mixer.layer_scale" not in state:
        return state
    last = len(transformer.resblocks) + 1
    renamed = {}
    for name, value in state.items():
        if name.startswith(blocks):
            number, _, rest = name.removeprefix(blocks).partition(".")
            place = {0: "before", last: "after"}.get(int(number), f"resblocks.{int(number) - 1}")
            name = f"text.transformer.{place}.{rest}"
            for theirs, ours in MIXER:
                name = re.sub(theirs, ours, name)
        renamed[name] = value
    return renamed

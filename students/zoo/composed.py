"""Students put together by name, any image tower of timm with a text tower of a given size:

    timm:TOWER[@PIXELS]+text:LAYERSxWIDTH[xMLP]       open_clip's text transformer, over CLIP's byte pairs
    timm:TOWER[@PIXELS]+hf:bert-LAYERSxWIDTH[xMLP]    transformers' BERT, over word pieces

The name becomes a `StudentSpec` in open_clip's own words; nothing is downloaded. What the image tower sees (size, mean, std,
interpolation, how a photo becomes a square) is timm's own of that tower. Left out: timm's pretrained weights.
"""

import functools
import math
import re
from typing import Any

from distill.core.errors import UsageError, nearest
from distill.core.packages.files import MINILM_REPOSITORY
from distill.core.registry import Form
from students.spec import STUDENTS, StudentSpec

PREFIX, JOINT = "timm:", "+"
SHOWN = ("timm:TOWER[@PIXELS]+text:LAYERSxWIDTH[xMLP]", "timm:TOWER[@PIXELS]+hf:bert-LAYERSxWIDTH[xMLP]")
LISTED = ("timm:T+text:LxW", "timm:T+hf:bert-LxW")  # the same, for narrow lists
EMBED_DIM = 512  # of every published mobile CLIP; recipes change it by student.embed_dim
MINILM_WIDTH, MINILM_HEADS, WORD_PIECES = 384, 12, 30_522  # BERT's own vocabulary, which MiniLM keeps
SQUARES = {"center": "shortest", "squash": "squash", "border": "longest"}  # timm's words -> open_clip's
CLIP_CONTEXT, BERT_CONTEXT = 77, 64


@functools.cache
def compose(name: str) -> StudentSpec:
    """The student that a name puts together. Raises UsageError that says which part of the name is wrong."""
    image, joint, text = name.removeprefix(PREFIX).partition(JOINT)
    if not joint or not image or not text:
        missing = "image tower" if joint and not image else "text tower"
        raise UsageError(f"The student {name!r} has no {missing}. Write {' or '.join(SHOWN)}.")
    text_cfg = _text(name, text)
    tower, at, pixels = image.partition("@")
    if at and not (pixels.isdigit() and int(pixels) >= 16):
        raise UsageError(
            f"The student {name!r} has image size {pixels!r}. Write a number of pixels: timm:{tower}@160{JOINT}{text}."
        )
    vision_cfg, seen = _image(name, tower, int(pixels) if at else None)
    return StudentSpec(
        name=name,
        model_cfg={"embed_dim": EMBED_DIM, "vision_cfg": vision_cfg, "text_cfg": text_cfg, "custom_text": True},
        note="put together by name",
        **seen,
    )


def _image(name: str, tower: str, size: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """vision_cfg, and the spec's preprocessing, of a tower of timm."""
    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    import timm
    import torch

    if not timm.is_model(tower):
        raise UsageError(f"timm has no image tower {tower!r}, of {name!r}. {nearest(tower, timm.list_models())}")
    try:
        facts = timm.get_pretrained_cfg(tower)
        with torch.device("meta"):
            net: Any = timm.create_model(tower, pretrained=False)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"timm cannot build the image tower {tower!r}, of {name!r}: {error}") from None
    if facts is None or facts.input_size[0] != 3 or facts.input_size[1] != facts.input_size[2]:
        raise UsageError(
            f"timm's {tower!r}, of {name!r}, takes no square RGB image, and students do. Choose another tower."
        )
    vision_cfg = {"timm_model_name": tower, "timm_model_pretrained": False, "image_size": size or facts.input_size[-1]}
    if getattr(net, "head_hidden_size", net.num_features) == net.num_features:
        # The network's own pooling, then a linear layer of open_clip's.
        vision_cfg |= {"timm_pool": "", "timm_proj": "linear", "timm_proj_bias": True}
    else:  # open_clip's would be made for the width before this network's last layer; its own classifier projects instead
        vision_cfg |= {"timm_pool": "avg", "timm_proj": None}
    bilinear = facts.interpolation == "bilinear"
    return vision_cfg, {
        "mean": tuple(facts.mean),
        "std": tuple(facts.std),
        "interpolation": "bilinear" if bilinear else "bicubic",
        "resize_mode": SQUARES.get(facts.crop_mode or "center", "shortest"),
    }


def _text(name: str, text: str) -> dict[str, Any]:
    kind, _, sizes = text.partition(":")
    if kind not in ("text", "hf"):
        raise UsageError(f"The student {name!r} has the text tower {text!r}. Write {' or '.join(SHOWN)}.")
    match = re.fullmatch(r"(bert-)?([1-9]\d*)x([1-9]\d*)(?:x([1-9]\d*))?", sizes)
    if not match or (kind == "hf") != bool(match[1]):
        example = "hf:bert-3x384" if kind == "hf" else "text:4x256"
        other = " Only BERT is known." if kind == "hf" and not sizes.startswith("bert-") else ""
        raise UsageError(f"The student {name!r} has the text tower {text!r}. Write layers x width: {example}.{other}")
    layers, width, inner = int(match[2]), int(match[3]), int(match[4] or 4 * int(match[3]))
    if width % 32:
        raise UsageError(
            f"The student {name!r} has a text tower {width} wide; heads are 64 or 32 wide, so it must be a multiple of 32."
        )
    heads = width // 64 if width % 64 == 0 else width // 32
    shape = {"width": width, "heads": heads, "layers": layers, "mlp_ratio": _ratio(inner, width)}
    if kind == "text":
        return {"context_length": CLIP_CONTEXT, "vocab_size": 49_408, **shape, "no_causal_mask": True}
    if width == MINILM_WIDTH:
        shape["heads"] = MINILM_HEADS  # so that MiniLM's weights fit
    return {
        "hf_model_name": "bert",
        "hf_tokenizer_name": MINILM_REPOSITORY,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
        "context_length": BERT_CONTEXT,
        "vocab_size": WORD_PIECES,
        **shape,
    }


def _ratio(inner: int, width: int) -> float:
    """The ratio from which open_clip, which cuts the product to a whole number, computes `inner`."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else math.nextafter(ratio, math.inf)


STUDENTS.register_form(Form(PREFIX, JOINT, SHOWN, LISTED, compose))

"""From a `ModelKey` to its operations: the tower is built without weights and traced once.

Left out: towers that somebody has at hand (give them to `export.latency.graph.trace` as they are).
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distill.core.clip.hf_text import is_described
from distill.core.clip.model import MIXED, build_clip
from distill.core.errors import DistillError, UsageError
from export.latency.graph.memory import most_alive
from export.latency.graph.modules import MixedTextTower, TextTower
from export.latency.graph.names import DEFAULT_PIXELS, DEFAULT_TOKENS, ModelKey, clip_config
from export.latency.graph.trace import Op, compact, trace
from export.towers.text import text_tower

META = torch.device("meta")
FLOAT_BYTES = 4  # towers are traced in fp32
# transformers' architectures, by their published sizes: configuration and model class, and what differs from its defaults.
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert-mlm": ("BertConfig", "BertForMaskedLM", {}),
    "distilbert-mlm": ("DistilBertConfig", "DistilBertForMaskedLM", {}),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {}),
    "albert-mlm": (
        "AlbertConfig",
        "AlbertForMaskedLM",
        {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu"},
    ),
    "mobilebert-mlm": ("MobileBertConfig", "MobileBertForMaskedLM", {}),
    "mobilebert-qa": ("MobileBertConfig", "MobileBertForQuestionAnswering", {}),
    "electra": (
        "ElectraConfig",
        "ElectraForPreTraining",
        {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
}


def operations(key: ModelKey) -> dict[Op, int]:
    """Each distinct operation of the tower -> how often it occurs. Takes a second or so; no weights, no network.

    Raises:
        UsageError: it cannot be built, or does not take inputs of that size; the library's own words say why.
    """
    if key.tower == "both":
        text = key._replace(
            tower="text", size=int(clip_config(key.library, key.name)["text_cfg"].get("context_length", 77))
        )
        return dict(Counter(operations(key._replace(tower="image"))) + Counter(operations(text)))
    with _tracing(str(key)):
        model, inputs = _built(key)
        return compact(trace(model.eval(), inputs))


def _built(key: ModelKey) -> tuple[nn.Module, Tensor]:
    tokens = torch.zeros(1, key.size, dtype=torch.long, device=META)
    pixels = torch.empty(1, 3, key.size, key.size, device=META)
    if key.library == "timm":
        return _timm(key.name, key.size), pixels
    if key.library == "tv":
        return _torchvision(key.name), pixels
    if key.library in ("clip", "student"):
        return (clip_image if key.tower == "image" else clip_text)(clip_config(key.library, key.name), key.size)
    with META:
        if key.library == "mct":
            return MixedTextTower(context=key.size), tokens
        if key.library == "text":
            sizes, vocabulary, pool = key.name.split(":")
            layers, width = map(int, sizes.split("x"))
            heads = max(1, width // 64)
            full = pool == "full"
            return TextTower(layers, width, heads, key.size, int(vocabulary), min(width, 512), causal=not full), tokens
        if key.name == "nomic":  # rotary, gated MLP; the same products as this
            return TextTower(12, 768, 12, key.size, 30528, 768, mlp=6.0, causal=False), tokens
        return _transformers(key.name, key.size), tokens


def _timm(name: str, size: int) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": 512} if "mci" in name else {}
    model = None
    for extra in ({"img_size": size}, {}):  # only those with position embeddings take a size
        try:
            with META:
                model = timm.create_model(name, pretrained=False, **options, **extra)
            break
        except TypeError:
            continue
    if model is None:
        raise UsageError(f"timm cannot build {name!r}.")
    return _folded(model.eval(), lambda: timm.create_model(name, pretrained=False, **options))


def _folded(model: nn.Module, on_cpu: Any) -> nn.Module:
    from timm.utils.model import reparameterize_model

    try:
        folded: nn.Module = reparameterize_model(model, inplace=True)
    except Exception:  # some fold with arithmetic that the meta device lacks
        folded = reparameterize_model(on_cpu().eval(), inplace=True).to(META)
    return folded


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    try:
        with META:
            model: nn.Module = models.get_model(name, weights=None, **options)
    except NotImplementedError:  # some ask for the values of what they make
        model = models.get_model(name, weights=None, **options).to(META)
    return model


def clip_image(config: dict[str, Any], size: int | None = None) -> tuple[nn.Module, Tensor]:
    """The image tower of an open_clip configuration, and an input; both on the meta device."""
    given = config["vision_cfg"]
    pixels = size or given.get("image_size") or DEFAULT_PIXELS
    pixels = max(pixels) if isinstance(pixels, (list, tuple)) else int(pixels)
    vision = {**given, "image_size": pixels}
    small = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}  # not asked for
    plain = {name: value for name, value in config.items() if name in ("embed_dim", "quick_gelu")}
    whole = {**plain, "vision_cfg": vision, "text_cfg": small}
    clip = build_clip(whole, seed=0, device="meta").eval()
    if "timm_model_name" in vision:
        clip = _folded(clip, lambda: build_clip(whole, seed=0))
    return clip.get_submodule("visual"), torch.empty(1, 3, pixels, pixels, device=META)


def clip_text(config: dict[str, Any], length: int | None = None) -> tuple[nn.Module, Tensor]:
    """The text tower of an open_clip configuration, and an input; both on the meta device.

    Raises UsageError where the configuration names a tower of the Hugging Face Hub, whose sizes it does not hold.
    """
    text = config["text_cfg"]
    if is_described(text) or MIXED in text:
        return _exported_text(config, length)
    if "hf_model_name" in text:
        raise UsageError(
            f"The text tower is {text['hf_model_name']}, which only the Hugging Face Hub describes. Give its sizes instead, such "
            "as '12x768'."
        )
    width, tokens = int(text.get("width", 512)), length or int(text.get("context_length", DEFAULT_TOKENS))
    with META:
        tower = TextTower(
            int(text.get("layers", 12)),
            width,
            int(text.get("heads", width // 64)),
            tokens,
            int(text.get("vocab_size", 49408)),
            int(config["embed_dim"]),
            mlp=float(text.get("mlp_ratio", 4.0)),
            causal=not text.get("no_causal_mask", False),
        )
    return tower, torch.zeros(1, tokens, dtype=torch.long, device=META)


def _exported_text(config: dict[str, Any], length: int | None) -> tuple[nn.Module, Tensor]:
    """A text tower that is no plain transformer, as it is exported, and an input; both on the meta device."""
    tokens = length or int(config["text_cfg"].get("context_length", DEFAULT_TOKENS))
    small = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}  # not asked for
    text = {**config["text_cfg"], "context_length": tokens}
    clip = build_clip({**config, "vision_cfg": small, "text_cfg": text}, seed=0, device="meta").eval()
    for module in list(clip.get_submodule("text").modules()):
        if callable(fold := getattr(module, "reparameterize", None)):
            fold()
    with META:
        tower = text_tower(clip, int(text.get("vocab_size", 1)) - 1)
    return tower, torch.zeros(1, tokens, dtype=torch.int32, device=META)


def clip_operations(config: dict[str, Any], tower: str) -> dict[Op, int]:
    """`operations` of the "image" or the "text" tower of an open_clip configuration. Raises UsageError as that does."""
    with _tracing(f"The {tower} tower"):
        model, inputs = (clip_image if tower == "image" else clip_text)(config)
        return compact(trace(model.eval(), inputs))


class TowerCost(NamedTuple):
    """What a tower takes of a phone, whatever the phone.

    Attributes:
        operations: as of `clip_operations`.
        parameters: numbers that are stored, BatchNorms folded, the token embedding included.
        alive: the largest number of activations alive at once, see `most_alive`.
    """

    operations: Mapping[Op, int]
    parameters: int
    alive: int


def clip_cost(config: dict[str, Any], tower: str) -> TowerCost:
    """The cost of the "image" or the "text" tower of an open_clip configuration. Raises UsageError as `operations` does."""
    with _tracing(f"The {tower} tower"):
        model, inputs = (clip_image if tower == "image" else clip_text)(config)
        model.eval()
        stored = sum(parameter.numel() for parameter in model.parameters())
        return TowerCost(compact(trace(model, inputs)), stored, most_alive(model, inputs) // FLOAT_BYTES)


def _transformers(name: str, size: int) -> nn.Module:
    import transformers

    config_class, model_class, changes = TRANSFORMERS[name]
    config = getattr(transformers, config_class)(**changes)
    config._attn_implementation = "eager"
    config.max_position_embeddings = max(size, config.max_position_embeddings)
    return getattr(transformers, model_class)(config)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _tracing(what: str) -> Iterator[None]:
    """Attention written out, since timm decides at building whether it is one opaque call; a library's errors in a user's words."""
    import warnings

    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    from timm.layers import config as layers

    before = layers.use_fused_attn()
    layers.set_fused_attn(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DistillError:
        raise
    except Exception as error:  # whatever a library raises about a size or a part that it lacks
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UsageError(f"{what} cannot be built to count its operations: {said}") from error
    finally:
        layers.set_fused_attn(before)

"""A transformer tower as inheritance sees it: its sizes, its kind, and where each of its parts lies in the state dict."""

import copy
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from distill.core.clip.model import build_clip
from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.towers.layouts import LAYOUTS, Layout

State = dict[str, Tensor]
NOUNS = {"visual": "image", "text": "text"}


class Place(NamedTuple):
    """Where a role lies: the name of its tensor, which of how many stacked parts it is, whether it is stored transposed."""

    name: str
    part: int = 0
    parts: int = 1
    transposed: bool = False


@dataclass(frozen=True)
class Tower:
    """One transformer tower of a model.

    Attributes:
        which: "visual" or "text".
        library: whose names its tensors have.
        places: role ("blocks.3.q.weight", "tokens") -> its place.
        layers, width, heads, head_width, ffn: its sizes; `ffn` are the MLP neurons of a layer.
        positions: rows of its position table, of which `extra` belong to no patch or token (the class embedding).
        vocab: tokens; 0 of an image tower.
        embed: width of the embeddings it gives; 0 where it has no projection of its own.
        patch: pixels of a patch's side; 0 of a text tower.
        kind: what a weight's meaning depends on and no slicing changes (activation, causal, pooling, ...).
        norm_first: whether each block normalises its input, else its output.
        shapes: role -> the shape of its tensor, [out, in] where it is a linear layer's.
    """

    which: str
    library: str
    places: dict[str, Place] = field(repr=False)
    layers: int
    width: int
    heads: int
    head_width: int
    ffn: int
    positions: int
    extra: int
    vocab: int
    embed: int
    patch: int
    kind: dict[str, object]
    norm_first: bool
    shapes: dict[str, list[int]] = field(repr=False)

    def read(self, state: State, role: str) -> Tensor | None:
        """The tensor of a role, [out, in] where it is a linear layer's, or None where the tower has no such part."""
        place = self.places.get(role)
        if place is None:
            return None
        value = state[place.name]
        if place.parts > 1:
            value = value.chunk(place.parts)[place.part]
        if role in ("class", "positions"):  # some libraries keep a batch axis before them
            return value.reshape(-1) if role == "class" else value.reshape(-1, value.shape[-1])
        return value.T if place.transposed else value


def find_tower(state: State, model: nn.Module, which: str) -> Tower:
    """The tower "visual" or "text" of an open_clip model (or a transformers CLIPModel).

    Args:
        state: its state dict; shapes are read, values are not.
        model: the module itself, on any device (also "meta").

    Raises UsageError, with the reason, where it is no transformer that can be sliced.
    """
    for layout in LAYOUTS:
        for prefix in layout.prefixes:
            if layout.tower == which and any(name.startswith(f"{prefix}{layout.blocks}0.") for name in state):
                return _tower(state, model, layout, prefix)
    raise UsageError(f"its {NOUNS[which]} tower is not a plain transformer")


def tower_of(source: ClipWeights, which: str) -> Tower:
    """The tower of a source of weights. Raises as `find_tower` does."""
    return find_tower(source.state, source.model or skeleton(source.model_cfg), which)


def tower_of_config(model_cfg: dict[str, Any], which: str) -> Tower:
    """The tower of a model of this open_clip configuration. Raises as `find_tower` does."""
    model = skeleton(model_cfg)
    return find_tower(model.state_dict(), model, which)


def skeleton(model_cfg: dict[str, Any]) -> nn.Module:
    """A model of this configuration without weights (on the device "meta")."""
    return _skeleton(json.dumps(model_cfg))


@lru_cache(maxsize=8)
def _skeleton(text: str) -> nn.Module:
    cfg = copy.deepcopy(json.loads(text))
    for part in ("vision_cfg", "text_cfg"):
        cfg[part].pop("patch_dropout", None)
    return build_clip(cfg, seed=0, device="meta")


def _tower(state: State, model: nn.Module, layout: Layout, prefix: str) -> Tower:
    pooled = state.get(
        f"{prefix}attn_pool.query"
    )  # open_clip's attentional pooling: what comes behind it is not sliced
    outer = {f"{prefix}{name}": roles for name, roles in layout.outer.items()} | layout.beside
    if pooled is not None:
        outer = {name: roles for name, roles in outer.items() if not roles.startswith(("norm_final", "projection"))}
    places = _places({name: roles for name, roles in outer.items() if name in state})
    layers = 0
    while any(name.startswith(start := f"{prefix}{layout.blocks}{layers}.") for name in state):
        block = {name.removeprefix(start) for name in state if name.startswith(start)}
        if odd := sorted(block - layout.block.keys()):
            raise UsageError(
                f"the blocks of its {NOUNS[layout.tower]} tower have parts that are not sliced here ({odd[0]})"
            )
        inside = {f"{start}{name}": roles for name, roles in layout.block.items() if name in block}
        places |= {f"blocks.{layers}.{role}": place for role, place in _places(inside).items()}
        layers += 1
    start = "patch.weight" if layout.tower == "visual" else "tokens"
    if start not in places:
        raise UsageError(
            f"its {NOUNS[layout.tower]} tower does not begin with {'patches' if start[0] == 'p' else 'tokens'}"
        )
    if "positions" not in places:
        raise UsageError(f"the {NOUNS[layout.tower]} tower has no table of positions")
    shape = {role: _shape(state[place.name], place) for role, place in places.items()}
    heads = _heads(model.get_submodule(f"{prefix}{layout.blocks}0"))
    width = shape["blocks.0.norm1.weight"][0]
    projection = next((role for role in ("projection.weight", "projection2.weight") if role in places), None)
    embed = 0 if projection is None else shape[projection][0]
    inner = shape["blocks.0.out.weight"][1]
    return Tower(
        which=layout.tower,
        library=layout.library,
        places=places,
        layers=layers,
        width=width,
        heads=heads,
        head_width=inner // heads,
        ffn=shape["blocks.0.up.weight"][0],
        positions=shape["positions"][-2],
        extra=_extra(shape, layout),
        vocab=shape["tokens"][0] if "tokens" in places else 0,
        embed=embed,
        patch=shape["patch.weight"][-1] if "patch.weight" in places else 0,
        kind=_kind(model, layout, prefix),
        norm_first=layout.norm_first,
        shapes=shape,
    )


def _shape(value: Tensor, place: Place) -> list[int]:
    sizes = list(value.shape)
    return sizes[::-1] if place.transposed else [sizes[0] // place.parts, *sizes[1:]]


def _places(names: dict[str, str]) -> dict[str, Place]:
    """Role -> place, of a table of names and roles."""
    found = {}
    for name, roles in names.items():
        each = roles.split()
        for part, role in enumerate(each):
            found[role.removesuffix("^T")] = Place(name, part, len(each), role.endswith("^T"))
    return found


def _extra(shape: dict[str, list[int]], layout: Layout) -> int:
    """How many positions belong to no patch: what is over a square number of them. 1 for a class token behind a text."""
    if layout.tower == "text":
        return 1 if "class" in shape else 0
    count = shape["positions"][-2]
    return count - int(count**0.5) ** 2 if "class" in shape else 0


def _heads(block: nn.Module) -> int:
    for name in ("num_heads", "num_attention_heads"):
        for module in block.modules():
            if isinstance(value := getattr(module, name, None), int):
                return value
    raise UsageError("the number of its attention heads is not to be found")


def _kind(model: nn.Module, layout: Layout, prefix: str) -> dict[str, object]:
    block = model.get_submodule(f"{prefix}{layout.blocks}0")
    kind: dict[str, object] = {"activation": _activation(block)}
    inside = prefix.removesuffix(".").split(".")[0]
    tower: Any = model.get_submodule(inside) if inside else model
    if layout.tower == "text":
        mask = getattr(tower, "attn_mask", None)
        kind["causal"] = mask is not None if layout.library == "open_clip" else layout.library == "Hugging Face CLIP"
        names = (getattr(tower, name, None) for name in ("pool_type", "text_pool_type"))
        pool = next((name for name in names if name), type(getattr(tower, "pooler", None)).__name__)
        if getattr(tower, "cls_emb", None) is not None:
            pool = "class"
        kind["pooling"] = {"argmax": "end", "eos": "end", "NoneType": "end"}.get(str(pool), pool)
    else:
        trunk = getattr(tower, "trunk", tower)
        pool = getattr(trunk, "global_pool", None) or getattr(tower, "pool_type", "token")
        if getattr(trunk, "attn_pool", None) is not None:
            pool = "attention"
        kind["pooling"] = {"tok": "class", "token": "class", "map": "attention"}.get(str(pool), pool)
    return kind


def _activation(block: nn.Module) -> str:
    """The name of the block's activation: "gelu", "gelu_tanh", "quick_gelu", ..."""
    for module in block.modules():
        name = type(module).__name__.lower().removesuffix("activation")
        if "gelu" in name or name in ("relu", "silu"):
            tanh = getattr(module, "approximate", "none") == "tanh" or name in (
                "newgelu",
                "gelutanh",
                "pytorchgelutanh",
            )
            return "quick_gelu" if "quick" in name else "gelu_tanh" if tanh else name
    raise UsageError("its activation is not to be found")

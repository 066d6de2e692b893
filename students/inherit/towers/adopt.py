"""Adopting a tower whole: every weight of a source's tower of the same architecture, of whatever kind that is.

Slicing knows transformers; a convolutional tower that runs well on phones is taken over as it is, or not at all. Its
projection is taken too where it is as wide, and is to be fitted anew where it is not (`students.inherit.projections.ridge`).
Left out: transformer towers of other sizes (`students.inherit.planning`).
"""

from typing import Any

from torch import Tensor, nn

from distill.core.clip.weights import ClipWeights
from distill.core.errors import UsageError
from students.inherit.projections.place import projection_of

PARTS = {"visual": "vision_cfg", "text": "text_cfg"}
WORDS = {"visual": "timm_model_name", "text": "hf_model_name"}  # what names an architecture of another library


def adopt_tower(clip: nn.Module, model_cfg: dict[str, Any], source: ClipWeights, which: str) -> dict[str, Tensor]:
    """The tensors of the source's tower `which` for a student whose tower is of the same architecture.

    Args:
        clip: the student's open_clip module; left as it is.
        model_cfg: its configuration.
        which: "visual" or "text".

    Raises UsageError, with the reason, where the towers are not of the same architecture.
    """
    ours, theirs = (_architecture(cfg, which) for cfg in (model_cfg, source.model_cfg))
    if ours is None or ours != theirs:
        raise UsageError(
            f"its tower is {theirs or 'of open_clip itself'} in the source, {ours or 'of open_clip itself'} here"
        )
    own = {name: value for name, value in clip.state_dict().items() if name.startswith(f"{which}.")}
    mapped = _projection_names(clip, which)
    taken: dict[str, Tensor] = {}
    for name, value in own.items():
        found = source.state.get(name)
        if found is not None and found.shape == value.shape:
            taken[name] = found
        elif name not in mapped:
            how = "lacks it" if found is None else f"has {list(found.shape)} there, {list(value.shape)} are here"
            raise UsageError(f"{name} does not fit: the source {how}")
    if mapped & taken.keys() != mapped:  # half a projection is none
        taken = {name: value for name, value in taken.items() if name not in mapped}
    return taken


def _architecture(model_cfg: dict[str, Any], which: str) -> str | None:
    """The name of the architecture, without the tag of its weights; None of open_clip's own towers."""
    name = model_cfg[PARTS[which]].get(WORDS[which])
    return str(name).split(".")[0] if name else None


def _projection_names(clip: nn.Module, which: str) -> set[str]:
    """The names of the tensors of the tower's projection; empty where it has none of its own."""
    try:
        tensors = {id(tensor) for tensor in projection_of(clip, which).parameters}
    except UsageError:
        return set()
    return {name for name, tensor in clip.named_parameters() if id(tensor) in tensors}

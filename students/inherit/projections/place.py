"""A tower's last linear map, whatever module holds it: read what goes in, and set it with an offset that is exact.

open_clip keeps the map as a bare parameter, as a linear layer with or without an offset, or as the classifier of a timm
model. Where it has no place for an offset of its own, the norm layer before it has: `W (x + d) = W x + b` for `d = W⁺ b`, as
long as W has full row rank. A map of fewer samples than its width has not, or by rounding alone, and d is then beyond all
measure: see `holds`. Left out: where the map comes from (`students.inherit.projections.ridge`).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from distill.core.errors import UsageError

LARGEST_SHIFT = 8.0  # of a norm layer, whose outputs are about 1; whole sets of captions ask for less than 1


@dataclass(frozen=True)
class Projection:
    """Where a tower's last linear map lies.

    Attributes:
        holder: the module that has it.
        attribute: its name there.
        norm: the norm layer before it, which takes the offset where the map itself has none; None where nothing can.
    """

    holder: nn.Module
    attribute: str
    norm: nn.Module | None

    @property
    def _map(self) -> nn.Linear | nn.Parameter:
        found: nn.Linear | nn.Parameter = getattr(self.holder, self.attribute)
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """(features, width)."""
        if isinstance(self._map, nn.Linear):
            return self._map.in_features, self._map.out_features
        return int(self._map.shape[0]), int(self._map.shape[1])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The map's own tensors."""
        return list(self._map.parameters()) if isinstance(self._map, nn.Linear) else [self._map]

    @property
    def takes_offset(self) -> bool:
        """Whether any offset can be set: by the map itself, or by the norm layer where no width is wider than its features."""
        found, (features, width) = self._map, self.shape
        own = isinstance(found, nn.Linear) and found.bias is not None
        return own or (getattr(self.norm, "bias", None) is not None and width <= features)

    def holds(self, weight: Tensor, offset: Tensor) -> bool:
        """Whether `set` can place this offset: by the map itself, or by a shift of the norm layer that leaves its features visible.

        Args: those of `set`. A weight of too low a rank asks for a shift of millions, in which features are rounded away.
        """
        if isinstance(self._map, nn.Linear) and self._map.bias is not None:
            return True
        if not self.takes_offset:
            return not bool(offset.any())
        return float(_shift(weight, offset).abs().max()) <= LARGEST_SHIFT

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside, the tower returns what would go into the map, [b, features]."""
        kept = self._map
        setattr(self.holder, self.attribute, self._nothing())
        try:
            yield
        finally:
            setattr(self.holder, self.attribute, kept)

    def _nothing(self) -> nn.Module | None:
        """What stands in the map's place and changes nothing."""
        if _pools(self.holder):  # reads the map's tensors, and calls it never
            size = self.shape[0]
            same = nn.Linear(size, size).requires_grad_(False)
            same.weight.copy_(torch.eye(size))
            same.bias.zero_()
            return same.to(self.parameters[0].device)
        # open_clip asks whether its own map is None, and calls every other one.
        called = isinstance(self._map, nn.Linear) and self.attribute != "text_projection"
        return nn.Identity() if called else None

    def set(self, weight: Tensor, offset: Tensor) -> None:
        """Make the tower return `weight @ features + offset`.

        Args:
            weight: [width, features], of full row rank where the offset goes into the norm layer.
            offset: [width]; zero where the tower has no place for one, which `holds` tells.
        """
        found = self._map
        with torch.no_grad():
            if isinstance(found, nn.Linear):
                found.weight.copy_(weight)
            else:
                found.copy_(weight.T)
            if isinstance(found, nn.Linear) and found.bias is not None:
                found.bias.copy_(offset)
                return
            bias: Any = getattr(self.norm, "bias", None)
            if self.takes_offset:
                bias.add_(_shift(weight, offset).to(bias))
            elif offset.any():
                raise ValueError("The tower has no place for an offset.")


def _shift(weight: Tensor, offset: Tensor) -> Tensor:
    """What the features are shifted by so that the map adds the offset, [features] float64."""
    shift: Tensor = torch.linalg.pinv(weight.double()) @ offset.double()
    return shift


def projection_of(clip: nn.Module, tower: str) -> Projection:
    """Where the last linear map of the tower "visual" or "text" of an open_clip module is.

    Raises UsageError where the tower ends otherwise (a two-layer head, attention pooling, no map at all).
    """
    if tower == "visual":
        return _image_projection(clip.get_submodule("visual"))
    found = getattr(clip, "text", None)
    return _text_projection(clip if found is None else found)


def _pools(module: nn.Module | None) -> TypeGuard[nn.Module]:
    """Whether a module is the pool of open_clip's ResNets, whose last layer is the projection."""
    from open_clip.modified_resnet import AttentionPool2d

    return isinstance(module, AttentionPool2d)


def _image_projection(visual: nn.Module) -> Projection:
    trunk: Any = getattr(visual, "trunk", None)
    if _pools(pool := getattr(visual, "attnpool", None)):
        return Projection(pool, "c_proj", None)
    if trunk is None:
        if isinstance(getattr(visual, "proj", None), nn.Parameter) and getattr(visual, "attn_pool", None) is None:
            return Projection(visual, "proj", getattr(visual, "ln_post", None))
        raise UsageError("its image tower does not end in one linear map of pooled features")
    head = visual.get_submodule("head")
    if isinstance(getattr(head, "proj", None), nn.Linear):
        return Projection(head, "proj", None)
    classifier = trunk.get_classifier()
    if len(list(head.children())) == 0 and isinstance(classifier, nn.Linear):
        name = next(name for name, module in trunk.named_modules() if module is classifier)
        parent, _, leaf = name.rpartition(".")
        return Projection(trunk.get_submodule(parent), leaf, None)
    raise UsageError("its image tower does not end in one linear map of pooled features")


def _text_projection(text: Any) -> Projection:
    if isinstance(getattr(text, "text_projection", None), nn.Parameter | nn.Linear):
        return Projection(text, "text_projection", getattr(text, "ln_final", None))
    if isinstance(getattr(text, "proj", None), nn.Linear):
        norms = [module for module in text.transformer.modules() if isinstance(module, nn.LayerNorm)]
        return Projection(text, "proj", norms[-1] if norms else None)
    raise UsageError("its text tower does not end in one linear map of pooled features")

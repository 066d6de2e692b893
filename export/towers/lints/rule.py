"""What a lint rule is, and their registry: one `Rule` per line of advice, in `export.towers.lints.rules`.

Importable without torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from distill.core.registry import Registry

if TYPE_CHECKING:
    from export.settings import ChipSettings
    from export.towers.lints.graph import Graph

Severity = Literal["E", "W", "I"]
SEVERITIES: dict[str, str] = {"E": "error", "W": "warning", "I": "information"}
# Which hardware a target's files run on; a target that is not here has the rules of every graph alone.
UNITS = {
    "coreml": "ANE", "coreai": "ANE", "executorch-coreml": "ANE", "onnx-qnn": "HTP", "executorch-qnn": "HTP",
    "executorch-ethos-u": "Ethos-U", "executorch-vulkan": "Vulkan", "executorch-xnnpack": "XNNPACK", "litert": "XNNPACK",
}  # fmt: skip
ANY = "any"


@dataclass(frozen=True)
class Subject:
    """What a graph is linted for.

    Attributes:
        target: name of the target.
        precision: of its files.
        chips: which accelerators files are compiled for.
        model_cfg: open_clip's configuration of the model; empty where it is none.
    """

    target: str
    precision: str
    chips: "ChipSettings"
    model_cfg: dict[str, Any] = field(default_factory=dict)

    @property
    def integers(self) -> bool:
        """Whether activations are integers too."""
        return self.precision in ("w8a8", "w8a16")

    @property
    def image_net(self) -> str:
        """timm's name of the image tower, "" where it is none."""
        return str(self.model_cfg.get("vision_cfg", {}).get("timm_model_name") or "")


class Found(NamedTuple):
    """One place where a rule holds: the module ("" = the tower itself), and what is there."""

    where: str
    what: str


@dataclass(frozen=True)
class Rule:
    """One thing that is known against a graph.

    Attributes:
        severity: "E" stops a training, "W" is said, "I" is good to know.
        unit: of `UNITS`, or ANY.
        says: what happens on the hardware, in a sentence without its full stop.
        mend: what to do about it, in a sentence without its full stop.
        source: who found it.
        find: where it holds.
    """

    severity: Severity
    unit: str
    says: str
    mend: str
    source: str
    find: "Callable[[Graph, Subject], Iterator[Found]]"


RULES: Registry[Rule] = Registry("lint rule", ("export.towers.lints.rules",))


def add(
    name: str, severity: Severity, unit: str, *, says: str, mend: str, source: str
) -> "Callable[[Callable[[Graph, Subject], Iterator[Found]]], Callable[[Graph, Subject], Iterator[Found]]]":
    """Decorator: registers what finds a rule's places."""

    def register(find: "Callable[[Graph, Subject], Iterator[Found]]") -> "Callable[[Graph, Subject], Iterator[Found]]":
        RULES.register(name)(Rule(severity, unit, says, mend, source, find))
        return find

    return register

"""`lint` runs the rules of targets over both towers of a model: what is known against it, before it is trained and lowered.

The towers are canonicalised first, as export does it, so that a rule speaks of what reaches the target; what that mended is
said beside. Left out: measuring, and accuracy.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from export.artifacts.record import Tower
from export.settings import ExportSettings
from export.target import Target
from export.towers.image_model import ImageModel, deployable_image_model
from export.towers.lints.graph import Graph, trace_tower, with_peaks
from export.towers.lints.rule import ANY, RULES, UNITS, Found, Rule, Severity, Subject
from export.towers.tower import deployable_towers

if TYPE_CHECKING:
    from students.student import Student

PLACES = 3  # modules of a finding that are named


@dataclass(frozen=True)
class Finding:
    """One rule that holds of one tower for some targets.

    Attributes:
        rule, severity: of `RULES`; severity is "E", "W" or "I".
        tower: "image" or "text".
        targets: folders of exports that it is about, "coreml-fp16".
        count: places where it holds.
        where: the first few modules; "" is the tower itself.
        what: what is there, of the first.
        says, mend, source: of the rule.
    """

    rule: str
    severity: Severity
    tower: Tower
    targets: tuple[str, ...]
    count: int
    where: tuple[str, ...]
    what: str
    says: str
    mend: str
    source: str

    def sentence(self) -> str:
        """In words: where, what, why it matters."""
        places = ", ".join(filter(None, self.where)) or f"the {self.tower} tower"
        more = f" and {self.count - len(self.where)} more" if self.count > len(self.where) else ""
        return f"{places}{more}: {self.what}; {self.says}"

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return dataclasses.asdict(self)


def towers_of(model: "Student | ImageModel") -> dict[Tower, Graph]:
    """The graphs of a model's deployable towers. Raises DistillError for one that cannot be deployed at all."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, model.image_size, model.image_size, generator=generator)
    if isinstance(model, ImageModel):
        return {"image": trace_tower(deployable_image_model(model), pixels, "image")}
    image, text = deployable_towers(model)
    tokens = model.tokenize(["a photo of a dog on a beach"]).to(torch.int32)
    return {"image": trace_tower(image, pixels, "image"), "text": trace_tower(text, tokens, "text")}


def probed(graphs: Mapping[Tower, Graph], pixels: Tensor, tokens: Tensor | None) -> dict[Tower, Graph]:
    """The graphs with the magnitudes that real inputs reach: [n, 3, S, S] in [0, 1], int32 [m, L]."""
    given = {"image": pixels, "text": tokens}
    return {
        tower: graph if given[tower] is None else with_peaks(graph, given[tower].split(1))  # type: ignore[union-attr]
        for tower, graph in graphs.items()
    }


def lint(
    graphs: Mapping[Tower, Graph], targets: Sequence[Target], settings: ExportSettings, model_cfg: dict[str, Any]
) -> list[Finding]:
    """What the rules find, the errors first.

    Args:
        graphs: of the towers.
        targets: at the precisions of their files.
        settings: chips that files are compiled for.
        model_cfg: open_clip's configuration of the model; {} where it is none.
    """
    found: dict[tuple[str, Tower, tuple[Found, ...]], list[str]] = {}
    for target in targets:
        subject = Subject(target.name, target.precision.name, settings.chips, model_cfg)
        for name, rule in rules_for(target.name):
            for tower, graph in graphs.items():
                if places := tuple(rule.find(graph, subject)):
                    found.setdefault((name, tower, places), []).append(target.folder)
    findings = [_finding(name, RULES.get(name), tower, places, names) for (name, tower, places), names in found.items()]
    return sorted(findings, key=lambda one: ("EWI".index(one.severity), one.rule, one.tower))


def rules_for(target: str) -> Iterable[tuple[str, Rule]]:
    """The rules that a target's files have to keep, by name."""
    return [(name, rule) for name, rule in RULES.items() if rule.unit in (ANY, UNITS.get(target))]


def _finding(name: str, rule: Rule, tower: Tower, places: Sequence[Found], targets: Sequence[str]) -> Finding:
    where = tuple(dict.fromkeys(place.where for place in places))[:PLACES]
    return Finding(
        name,
        rule.severity,
        tower,
        tuple(targets),
        len(places),
        where,
        places[0].what,
        rule.says,
        rule.mend,
        rule.source,
    )


def mended(model: "Student | ImageModel") -> list[str]:
    """What the canonicaliser changes before a tower is lowered, a few words each: what the rules then no longer find."""
    net: nn.Module = model if isinstance(model, ImageModel) else model.clip
    modules = list(net.modules())
    counts = {
        "BatchNorms folded or frozen": sum(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in modules),
        "fused attentions written out": sum(
            isinstance(one, nn.MultiheadAttention) or bool(getattr(one, "fused_attn", False)) for one in modules
        ),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    for name, table in net.named_buffers():
        if table.is_floating_point() and table.numel() and bool(torch.isinf(table).any()):
            told.append(f"{name}: -inf became -1e4")
    text: Any = getattr(net, "text", net)
    if str(getattr(text, "pool_type", getattr(net, "text_pool_type", ""))) in ("argmax", "eos"):
        told.append("the end of a caption is found by comparison, not by argmax and an indexed read")
    return told

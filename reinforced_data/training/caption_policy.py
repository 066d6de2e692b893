"""Which of a sample's captions the student reads in a step.

- "any": one caption, uniformly.
- "mix": one caption, by weights per source (LaCLIP, arXiv 2305.20088).
- "sum": one real and one synthetic caption; the losses of the two batches are added (MobileCLIP, arXiv 2311.17049,
  table 3a: +4.4 points of ImageNet over drawing one of the two). A sample that lacks a kind gives two of the other.
- "auto": "sum" where the set has real and synthetic captions, else "any".

Sentences of long captions (DreamLIP, arXiv 2403.17007) are drawn beside the whole captions when `sub_sentences` is set.
Losses belong to `distill`; this module only picks numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from distill.core.errors import UsageError
from reinforced_data.sentences import SENTENCE

PolicyName = Literal["auto", "any", "sum", "mix"]
KINDS = ("real", "synthetic")


@dataclass(frozen=True)
class CaptionPolicy:
    """How captions are drawn.

    Attributes:
        name: see the module.
        weights: source -> weight. "synthetic" means every synthetic source, "synthetic:coca" that captioner alone; the
            longest name that fits a caption counts, and its captions share the weight. With "mix" captions that no
            name fits are not drawn; no weights at all mean real = synthetic = 1. With "sum" they choose among the
            captions of one kind. "any" takes none.
        sub_sentences: draw stored sentences too (sources that end in "#sentence").

    Raises UsageError for a weight below zero, a table without a positive weight, a name that is no source, or weights
    with "any".
    """

    name: PolicyName = "auto"
    weights: dict[str, float] = field(default_factory=dict)
    sub_sentences: bool = False

    def __post_init__(self) -> None:
        if self.name == "any" and self.weights:
            raise UsageError('captions.weights belong to captions.policy = "mix" or "sum"; "any" draws evenly.')
        for source, weight in self.weights.items():
            if source.split(":")[0].split("#")[0] not in KINDS:
                raise UsageError(
                    f"captions.weights names {source!r}, but sources are called real, synthetic or synthetic:CAPTIONER."
                )
            if not 0 <= weight < float("inf"):
                raise UsageError(f"captions.weights gives {source!r} the weight {weight}; weights are 0 or more.")
        if self.weights and not any(self.weights.values()):
            raise UsageError("captions.weights has no positive weight, so no caption could be drawn.")

    def resolve(self, sources: Iterable[str]) -> "CaptionPolicy":
        """This policy with "auto" decided by the caption sources of the set."""
        if self.name != "auto":
            return self
        kinds = {kind_of(source) for source in sources}
        if kinds == set(KINDS):
            return CaptionPolicy("sum", self.weights, self.sub_sentences)
        return CaptionPolicy("mix" if self.weights else "any", self.weights, self.sub_sentences)

    def draw(self, sources: Sequence[str], rng: np.random.Generator) -> tuple[int, ...]:
        """The numbers of the captions to read, of a sample with these sources: one, or with "sum" two (real first)."""
        usable = [n for n, source in enumerate(sources) if self.sub_sentences or not source.endswith(SENTENCE)]
        usable = usable or list(range(len(sources)))
        if self.name == "sum":
            return tuple(
                self._weighted([n for n in usable if kind_of(sources[n]) == kind] or usable, sources, rng)
                for kind in KINDS
            )
        if self.name == "mix":
            return (self._weighted(usable, sources, rng),)
        return (usable[int(rng.integers(len(usable)))],)

    def _weighted(self, among: list[int], sources: Sequence[str], rng: np.random.Generator) -> int:
        """A source name by weight, then one of its captions evenly; evenly among all where no name fits."""
        weights = self.weights or dict.fromkeys(KINDS, 1.0)
        groups: dict[str, list[int]] = {}
        for number in among:
            name = max((name for name in weights if _fits(name, sources[number])), key=len, default="")
            if name and weights[name] > 0:
                groups.setdefault(name, []).append(number)
        if groups:
            names = sorted(groups)
            total = sum(weights[name] for name in names)
            among = groups[names[int(rng.choice(len(names), p=[weights[name] / total for name in names]))]]
        return among[int(rng.integers(len(among)))]


def kind_of(source: str) -> str:
    """ "real" or "synthetic": everything that is not the one is the other."""
    return "real" if _fits("real", source) else "synthetic"


def _fits(name: str, source: str) -> bool:
    return source == name or source.startswith((name + ":", name + "#"))

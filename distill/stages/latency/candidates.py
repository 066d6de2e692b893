"""The students that a budget may choose from: families x image sizes x text depths x precisions, each with what it costs.

Left out: which of them is chosen (`distill.stages.latency.choose`), and what they may be worth (`prior`).
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.core.errors import DistillError
from distill.core.progress import Progress
from distill.models import student_spec
from distill.recipe import Recipe, StudentRecipe
from distill.stages.latency.prior import prior
from students.spec import STUDENTS, StudentSpec

if TYPE_CHECKING:
    from export.latency.graph.build import TowerCost

TOWERS = ("image", "text")
SHARES = (1.0, 7 / 8, 3 / 4, 5 / 8)  # of a family's own input size
DEPTHS = (1.0, 3 / 4, 1 / 2)  # of a family's own text depth
STRIDE = 32  # that convolutional towers are divided by; those of patches by their patch
BITS = {"fp32": 32, "fp16": 16, "w8": 8, "p8": 8, "p6": 6, "p4": 4, "w8a8-dynamic": 8, "w8a8": 8, "w8a16": 8}
ACTIVATION_BYTES = {"fp32": 4, "w8a8": 1, "w8a16": 2}  # of the others 2


class Figure(NamedTuple):
    """A latency in milliseconds with the ends of its 90 % interval, and where it comes from."""

    ms: float
    low: float
    high: float
    source: str


# A tower's operations and a precision -> its latency on one device. Raises DistillError where there is none.
Timer = Callable[[Any, str], Figure]


@dataclass(frozen=True)
class Candidate:
    """One student that could be trained.

    Attributes:
        student, image_size, text_layers: as of the recipe's student table; None = the family's own.
        precision: of its exported files.
        pixels, layers: what `image_size` and `text_layers` come to; layers is None where a tower has no such number.
        latency: device -> its towers' time together.
        size_mb: of both files, from the number of weights; tables, headers and scales are not counted.
        memory_mb: of both towers' weights, and the largest set of activations that is alive at once.
        gmacs: multiply-adds of the image tower, in thousand millions.
        mparams: parameters of both towers in millions, the token embedding included.
        prior: see `distill.stages.latency.prior`.
    """

    student: str
    image_size: int | None
    text_layers: int | None
    precision: str
    pixels: int
    layers: int | None
    latency: Mapping[str, Figure]
    size_mb: float
    memory_mb: float
    gmacs: float
    mparams: float
    prior: float

    @property
    def name(self) -> str:
        """In words: "mci2 at 224 px, 9 text layers, w8"."""
        depth = "" if self.layers is None else f", {self.layers} text layers"
        return f"{self.student} at {self.pixels} px{depth}, {self.precision}"

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's keys that make this student; a size or depth that is the family's own is left out."""
        keys = {
            "student.name": self.student,
            "student.image_size": self.image_size,
            "student.text_layers": self.text_layers,
        }
        return {key: value for key, value in keys.items() if value is not None}


class Shape(NamedTuple):
    """A student without its precision."""

    spec: StudentSpec
    image_size: int | None
    text_layers: int | None


def families(recipe: Recipe) -> list[str]:
    """The students to search: those that are named, else all with the vocabulary that the data is written in.

    Raises UsageError for an unknown one.
    """
    named = recipe.choose.students
    if not named and "student" in recipe.model_fields_set and "name" in recipe.student.model_fields_set:
        named = (recipe.student.name,)
    for name in named:
        student_spec(StudentRecipe(name=name))
    if named:
        return list(dict.fromkeys(named))
    words = "rendered" if recipe.data.partition(":")[0] == "rendered" else None
    found: dict[str, str] = {}
    for name in sorted(STUDENTS, key=len):  # of two names of one architecture the shorter one
        spec = STUDENTS.get(name)
        if not spec.captions and spec.vocabulary == words:
            found.setdefault(json.dumps(spec.model_cfg, sort_keys=True, default=str), name)
    return sorted(found.values())


def shapes(recipe: Recipe, names: Sequence[str]) -> list[Shape]:
    """Every family at every input size and text depth."""
    found: dict[tuple[str, int, int | None], Shape] = {}
    for name in names:
        own = family(recipe, name)
        for size in _sizes(recipe, own):
            for layers in _depths(recipe, own):
                spec = own.resized(image_size=size, text_layers=layers)
                found.setdefault((name, spec.image_size, layers), Shape(spec, size, layers))
    return list(found.values())


def family(recipe: Recipe, name: str) -> StudentSpec:
    """A family at its own size and depth, with the other settings of the recipe's student."""
    plain = {"name": name, "image_size": None, "text_layers": None}
    return student_spec(recipe.student.model_copy(update=plain))


def _sizes(recipe: Recipe, own: StudentSpec) -> Iterator[int | None]:
    """None for the family's own size, which is tried first."""
    wanted: Sequence[int | None] = recipe.choose.image_sizes
    if not wanted and recipe.student.image_size is not None:
        wanted = (recipe.student.image_size,)
    stride = own.model_cfg["vision_cfg"].get("patch_size") or STRIDE
    stride = stride if isinstance(stride, int) else STRIDE
    steps = [max(stride, round(share * own.image_size / stride) * stride) for share in SHARES[1:]]
    for size in wanted or (None, *steps):
        yield None if size == own.image_size else size


def _depths(recipe: Recipe, own: StudentSpec) -> Iterator[int | None]:
    own_layers = text_layers(own)
    wanted: Sequence[int | None] = recipe.choose.text_layers
    if not wanted and recipe.student.text_layers is not None:
        wanted = (recipe.student.text_layers,)
    if own_layers is None:
        wanted = (None,)
    steps = [max(1, round(share * (own_layers or 1))) for share in DEPTHS[1:]]
    for layers in wanted or (None, *steps):
        yield None if layers == own_layers else layers


def text_layers(spec: StudentSpec) -> int | None:
    """How deep the text tower is; None where its depth is not open_clip's to say."""
    layers = spec.model_cfg["text_cfg"].get("layers")
    return layers if isinstance(layers, int) else None


def cost_of(spec: StudentSpec, tower: str) -> "TowerCost":
    """What a tower costs, traced once in a process. Raises DistillError where it cannot be built."""
    config = with_vocabulary(spec)
    other = "text_cfg" if tower == "image" else "vision_cfg"  # which does not matter to this tower
    part = {key: value for key, value in config.items() if key != other}
    return _traced(tower, json.dumps({**part, other: {}}, sort_keys=True))


@functools.lru_cache(maxsize=4096)
def _traced(tower: str, config: str) -> "TowerCost":
    from export.latency.graph.build import clip_cost

    return clip_cost(json.loads(config), tower)


def with_vocabulary(spec: StudentSpec) -> dict[str, Any]:
    """The student's configuration with the size of its vocabulary, where a merges file says it."""
    if spec.vocabulary is None:
        return spec.model_cfg
    from students.tokenizer import load_tokenizer, vocabulary_path

    size = load_tokenizer(vocabulary_path(spec.vocabulary), spec.context_length).vocab_size
    return {**spec.model_cfg, "text_cfg": {**spec.model_cfg["text_cfg"], "vocab_size": size}}


def candidates(
    recipe: Recipe, precisions: Sequence[str], timers: Mapping[str, Timer], progress: Progress
) -> tuple[list[Candidate], dict[str, str]]:
    """Every candidate, and those that cannot be built or predicted: name -> why.

    Args:
        precisions: of the files.
        timers: device -> what tells a tower's latency there.
        progress: called with the shapes that are done.

    Raises UsageError for an unknown family.
    """
    found: list[Candidate] = []
    failed: dict[str, str] = {}
    timers = {device: _remembering(timer) for device, timer in timers.items()}
    todo = shapes(recipe, families(recipe))
    for done, shape in enumerate(todo):
        progress(done, len(todo), shape.spec.name)
        where = f"{shape.spec.name} at {shape.spec.image_size} px"
        try:
            image, text = (cost_of(shape.spec, tower) for tower in TOWERS)
        except DistillError as error:
            failed[where] = str(error)
            continue
        for precision in precisions:
            try:
                found.append(_candidate(recipe, shape, precision, {"image": image, "text": text}, timers))
            except DistillError as error:
                failed[f"{where}, {precision}"] = str(error)
    return found, failed


def _remembering(timer: Timer) -> Timer:
    """The same timer, asked once for each tower and precision: towers come back in many candidates, as one object each."""
    known: dict[tuple[int, str], Figure] = {}

    def remembered(operations: Any, precision: str) -> Figure:
        key = (id(operations), precision)
        if key not in known:
            known[key] = timer(operations, precision)
        return known[key]

    return remembered


def _candidate(
    recipe: Recipe, shape: Shape, precision: str, costs: "Mapping[str, TowerCost]", timers: Mapping[str, Timer]
) -> Candidate:
    from export.latency.graph.features import totals

    towers = TOWERS if recipe.choose.towers == "both" else (recipe.choose.towers,)
    latency = {
        device: _together([timer(costs[tower].operations, precision) for tower in towers])
        for device, timer in timers.items()
    }
    weights = sum(cost.parameters for cost in costs.values())
    size_mb = weights * BITS[precision] / 8 / 1e6
    alive_mb = max(cost.alive for cost in costs.values()) * ACTIVATION_BYTES.get(precision, 2) / 1e6
    gmacs = totals(costs["image"].operations)["gmacs"]
    blocks = totals(costs["text"].operations)["mweights"]
    own = family(recipe, shape.spec.name).model_cfg
    return Candidate(
        shape.spec.name, shape.image_size, shape.text_layers, precision, shape.spec.image_size, text_layers(shape.spec),
        latency, round(size_mb, 2), round(size_mb + alive_mb, 2), gmacs, weights / 1e6,
        round(prior(own, gmacs, blocks, precision), 2),
    )  # fmt: skip


def _together(figures: Sequence[Figure]) -> Figure:
    """Two towers one after the other; the ends are added, which is on the safe side of their being independent."""
    ms, low, high = (float(f"{sum(values):.3g}") for values in list(zip(*figures, strict=True))[:3])
    return Figure(ms, low, high, " and ".join(dict.fromkeys(figure.source for figure in figures)))

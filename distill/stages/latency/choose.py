"""Choosing a student by a budget of milliseconds, megabytes or memory on named devices, before anything is trained.

The rule: of all candidates that meet the budget the one with the highest prior (`distill.stages.latency.prior`). A latency
meets it by the upper end of its 90 % interval unless `choose.bound` says otherwise. Left out: what candidates cost
(`candidates`), and training several (`trials`).
"""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.core.progress import Progress, silent
from distill.processes import this_place
from distill.recipe import Recipe
from distill.recipe.said import Filled, is_set, put
from distill.reporting.pareto import choices
from distill.reporting.terminal import plain_lines
from distill.run_folder import RunFolder
from distill.stages.latency.candidates import Candidate, candidates
from distill.stages.latency.counted_on import devices_of, precisions_of, targets_of, timer_of, with_figures
from distill.stages.lint import errors_of

if TYPE_CHECKING:
    from export.target import Target

RULE = (
    "the highest prior that meets the budget: published ImageNet accuracy of the architecture, brought to one way of training "
    "and to this size; a guess from others' data, not a measurement of yours"
)
KEYS = ("student.name", "student.image_size", "student.text_layers")
KEPT = 30  # of those that meet the budget, and of those that do not, in choice.json


@dataclass(frozen=True)
class Choice:
    """What a budget chose.

    Attributes:
        recipe: whose budget it is.
        devices: that keep the latency; empty where none is asked for.
        targets: whose files are counted.
        precisions: that were searched.
        met: shapes that meet the budget, each at its best precision, the best first.
        missed: the others, the nearest first.
        failed: what could not be built or predicted -> why.
        looked_at: candidates, precisions counted.
        refused: families whose targets are known to refuse them -> rules of `distill lint`; looked for among the best alone.
    """

    recipe: Recipe
    devices: tuple[str, ...]
    targets: tuple[str, ...]
    precisions: tuple[str, ...]
    met: list[Candidate]
    missed: list[Candidate]
    failed: dict[str, str]
    looked_at: int
    refused: dict[str, list[str]] = field(default_factory=dict)

    @property
    def chosen(self) -> list[Candidate]:
        """Those that are trained, the most promising first."""
        return self.met[: self.recipe.choose.train]

    def to_json(self) -> dict[str, Any]:
        """What choice.json holds."""
        settings = self.recipe.choose
        return {
            "said": said(self.recipe),
            "budget": {
                "max_latency_ms": settings.max_latency, "max_size_mb": settings.max_size, "max_memory_mb": settings.max_memory,
            },
            "devices": list(self.devices), "targets": list(self.targets), "precisions": list(self.precisions),
            "towers": settings.towers, "bound": settings.bound, "rule": RULE,
            "looked_at": self.looked_at, "met": len(self.met), "missed": len(self.missed),
            "chosen": [self._entry(candidate) for candidate in self.chosen],
            "candidates": [self._entry(candidate) for candidate in (*self.met[:KEPT], *self.missed[:KEPT])],
            "failed": self.failed,
        }  # fmt: skip

    def _entry(self, candidate: Candidate) -> dict[str, Any]:
        values = {key: value for key, value in asdict(candidate).items() if key != "latency"}
        latency = {device: figure._asdict() for device, figure in candidate.latency.items()}
        over = [name for name, ratio in overrun(self.recipe, candidate).items() if ratio > 1]
        refused = self.refused.get(candidate.student, [])
        return {"name": candidate.name, **values, "latency": latency, "over": over, "refused": refused}


def said(recipe: Recipe) -> str:
    """The budget in words."""
    settings = recipe.choose
    parts = [f"{settings.max_size:g} MB of files"] if settings.max_size else []
    parts += [f"{settings.max_memory:g} MB of memory"] if settings.max_memory else []
    if settings.max_latency:
        towers = "" if settings.towers == "both" else f" for the {settings.towers} tower"
        parts.insert(0, f"{settings.max_latency:g} ms{towers} on {' and '.join(devices_of(recipe))}")
    return ", ".join(parts)


def overrun(recipe: Recipe, candidate: Candidate) -> dict[str, float]:
    """Measure -> how many times its budget a candidate takes, for the measures that have one."""
    settings = recipe.choose
    found = {}
    if settings.max_latency:
        times = [one.high if settings.bound == "high" else one.ms for one in candidate.latency.values()]
        found["latency"] = max(times) / settings.max_latency
    if settings.max_size:
        found["size"] = candidate.size_mb / settings.max_size
    if settings.max_memory:
        found["memory"] = candidate.memory_mb / settings.max_memory
    return found


def choose(recipe: Recipe, progress: Progress = silent) -> Choice:
    """Look at every candidate of a recipe's budget.

    Raises:
        UsageError: no budget, an unknown device, family, target or precision, a device whose latencies nothing is known of, or a
            budget that no candidate meets (names the nearest).
    """
    if not recipe.choose.asked:
        raise UsageError(
            "A choice needs a budget: --max-latency 5ms --device PHONE, --max-size 40MB or --max-memory 100MB."
        )
    devices = devices_of(recipe)
    timers = {device: timer_of(device) for device in devices}
    targets = targets_of(recipe, devices)
    precisions = with_figures(precisions_of(recipe, devices, targets), timers)
    found, failed = candidates(recipe, precisions, timers, progress)
    best: dict[tuple[Any, ...], Candidate] = {}
    for candidate in found:
        key = (candidate.student, candidate.pixels, candidate.layers)
        if key not in best or _rank(recipe, candidate) < _rank(recipe, best[key]):
            best[key] = candidate
    ordered = sorted(best.values(), key=lambda candidate: _rank(recipe, candidate))
    met = [candidate for candidate in ordered if _meets(recipe, candidate)]
    choice = Choice(recipe, devices, targets, precisions, met, ordered[len(met) :], failed, len(found))
    if not met:
        raise UsageError(_unmet(choice))
    return choice


def without_errors(choice: Choice) -> Choice:
    """The choice without families that the targets of its files are known to refuse, which no training would begin with.

    Raises UsageError where none is left.
    """
    met, refused = list(choice.met), dict(choice.refused)
    done = 0
    while done < min(choice.recipe.choose.train, len(met)):
        one = met[done]
        values = student_values(choice.recipe, one.student, one.image_size, one.text_layers)
        errors = errors_of(put(choice.recipe, values | export_values(choice.recipe, choice, one)))
        if not errors:
            done += 1
            continue
        refused[one.student] = sorted({error.rule for error in errors})
        met = [other for other in met if other.student != one.student]
    if not met:
        told = "; ".join(f"{name}: {', '.join(rules)}" for name, rules in refused.items())
        raise UsageError(
            f"Every student within {said(choice.recipe)} is one that its targets are known to refuse ({told}). See distill "
            "lint, or accept the rules by lint.allow."
        )
    left = [one for one in choice.met if one.student in refused]
    return replace(choice, met=met, missed=[*left, *choice.missed], refused=refused)


def _meets(recipe: Recipe, candidate: Candidate) -> bool:
    return max(overrun(recipe, candidate).values()) <= 1


def _rank(recipe: Recipe, candidate: Candidate) -> tuple[Any, ...]:
    """Smaller is better: within the budget by prior, then by size; outside it by how far."""
    worst = max(overrun(recipe, candidate).values())
    return (0, -candidate.prior, candidate.size_mb) if worst <= 1 else (1, worst, -candidate.prior)


def _unmet(choice: Choice) -> str:
    if not choice.missed:
        first = next(iter(choice.failed.items()), ("", "no family is left"))
        return f"No candidate could be predicted within {said(choice.recipe)}; for example {first[0]}: {first[1]}."
    nearest = choice.missed[0]
    takes = [f"{nearest.size_mb:.3g} MB of files", f"{nearest.memory_mb:.3g} MB of memory"]
    if nearest.latency:
        figure = max(nearest.latency.values(), key=lambda one: one.high)
        takes.insert(0, f"{figure.ms:.3g} ms ({figure.low:.3g} to {figure.high:.3g}, {figure.source})")
    over = [name for name, ratio in overrun(choice.recipe, nearest).items() if ratio > 1]
    middle = " or count predictions without their intervals (--set choose.bound=middle)," if "latency" in over else ""
    return (
        f"None of {choice.looked_at} candidates is within {said(choice.recipe)}. The nearest is {nearest.name}, over in "
        f"{' and '.join(over)}: {', '.join(takes)}. Give a larger budget,{middle} or more to choose from: "
        "choose.students, choose.image_sizes, choose.text_layers, choose.precisions."
    )


def settle_choice(
    recipe: Recipe, run: RunFolder, existing: Existing, console: Console
) -> tuple[Recipe, Filled, Choice | None]:
    """The recipe with the student that its budget chooses; a run that is resumed keeps the one it has.

    Returns the recipe, the reason of each value that was chosen, and the choice where one was made.
    """
    if not recipe.choose.asked:
        return recipe, {}, None
    if recipe.towers is not None:
        raise UsageError(
            "A budget chooses a student, and heads over frozen towers (towers = ...) have none. Leave one out."
        )
    kept = atomic.read_json(run.resolved) if existing is Existing.RESUME and run.resolved.exists() else None
    if kept is not None and not any(key in kept.get("filled", {}) for key in (*KEYS, "export.targets")):
        return recipe, {}, None  # a run without a budget, which says so when it is opened
    if kept is None or not run.choice.exists():
        with console.stage("choose a student") as advance:
            choice: Choice | None = without_errors(choose(recipe, advance))
    else:
        choice = None
    if kept is not None:
        chosen = (*KEYS, "export.targets")
        filled = {key: why for key, why in kept["filled"].items() if key in chosen and not is_set(recipe, key)}
        values = {key: _at(kept["recipe"], key) for key in filled}
        return put(recipe, values), filled, choice
    assert choice is not None
    best = choice.chosen[0]
    values = student_values(recipe, best.student, best.image_size, best.text_layers) | export_values(
        recipe, choice, best
    )
    reason = f"chosen among {choice.looked_at} by {said(recipe)}"
    if this_place().rank == 0:
        say(choice, console)
    return put(recipe, values), dict.fromkeys(values, reason), choice


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def student_values(recipe: Recipe, name: str, image_size: int | None, text_layers: int | None) -> dict[str, Any]:
    """The keys that make a candidate the student, without those that the caller set."""
    values = dict(zip(KEYS, (name, image_size, text_layers), strict=True))
    return {key: value for key, value in values.items() if not is_set(recipe, key)}


def export_values(recipe: Recipe, choice: Choice, candidate: Candidate) -> dict[str, Any]:
    """The key that has a candidate exported as it was counted; {} where the caller's own words do, or say precisions.

    A target that is named without a precision gets the candidate's; one that is not named is added where the caller named none.
    """
    from export.target import ALIASES, TARGETS, get_target

    if recipe.export.precisions:
        return {}
    names = list(recipe.export.targets)
    for wanted in choice.targets:
        target: Target = get_target(wanted, candidate.precision)
        plain = [name for name in names if (name in TARGETS or name in ALIASES) and get_target(name).name == wanted]
        if plain and get_target(wanted).precision.name != candidate.precision:
            names[names.index(plain[0])] = target.folder
        elif not any(get_target(name).name == wanted for name in names) and not is_set(recipe, "export.targets"):
            names += [target.folder] if target.missing() is None else []
    return {"export.targets": names} if tuple(names) != recipe.export.targets else {}


def say(choice: Choice, console: Console) -> None:
    """What was chosen, with the table of the few best, for people."""
    record = choice.to_json()
    for line in (*choices.lines(record), choices.title(record)):
        console.say(line)
    for line in plain_lines(choices.COLUMNS, choices.rows(record)):
        console.say("  " + line)

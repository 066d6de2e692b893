"""A student's start from another model's weights: a selection of them by a plan, or every one."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.clip.model import TOKEN_TABLES
from distill.core.clip.weights import ClipWeights
from distill.core.errors import DistillError, UsageError
from students.inherit.strategy import STRATEGIES
from students.vocabularies.rows import kept_rows

if TYPE_CHECKING:
    from torch import Tensor

    from students.inherit.calibration import Calibrate, Calibration
    from students.inherit.plan import InheritancePlan
    from students.student import Student

COPY = "copy"  # every weight as it is, from a model of the same architecture (fine-tuning)
NONE = "none"  # nothing is inherited
PLAN = "plan:"  # then the file of a plan
TOWERS = ("visual", "text")
AUTO, ALL = "auto", "all"
LEAST_SQUARES = "least-squares"
INHERITED, ADOPTED, NEW = "inherited", "adopted", "new"  # where a parameter starts from


def check_strategy(name: str) -> None:
    """Raise UsageError unless `name` is an inheritance strategy, "copy", "none", or "plan:" and a file that holds a plan."""
    if name.startswith(PLAN):
        from students.inherit.plan import read_plan

        read_plan(Path(name.removeprefix(PLAN)))
    elif name not in (NONE, COPY):
        STRATEGIES.get(name)


@dataclass(frozen=True)
class Terms:
    """On what terms a student inherits.

    Attributes:
        allowed: "auto" = a tower is inherited where that is measured to be better than a random start; "all"; or the facts
            that may differ, see `students.inherit.towers.differences.FACTS`.
        repair: "least-squares", "bias" or "none" (see `students.inherit.repairs.refit`); "auto" = least squares, kept of
            each tower where it is measured to be better, none without pairs.
        calibrate: gives the pairs to score and measure on.
    """

    allowed: str | tuple[str, ...] = AUTO
    repair: str = "none"
    calibrate: "Calibrate | None" = None

    def pairs(self) -> "Calibration | None":
        """The pairs, None where there are none."""
        return None if self.calibrate is None else self.calibrate()


def start_from(
    student: "Student",
    source: ClipWeights,
    strategy: str,
    terms: Terms = Terms(),
    plan: "InheritancePlan | None" = None,
) -> dict[str, Any]:
    """Give `student` what it inherits from `source` under `strategy`: "copy", "plan:FILE", or a name in STRATEGIES.

    Args:
        terms: what may differ in kind, how slicing is repaired, and what to measure on.
        plan: the one to use, made under this strategy before (a run that goes on).

    Returns:
        What inheritance.json records: strategy, source, source_sha256, the towers inherited, the towers skipped with the
        reason, in what inherited ones differ ("across"), the losses measured ("step0", "repaired"), where each parameter
        starts from ("origins": name -> "inherited", "adopted" or "new"), and but for "copy" the plan.

    Raises:
        UsageError: an unknown strategy, a plan that does not fit, or "copy" between models that are not alike.
    """
    summary = {
        "strategy": strategy,
        "source": source.name,
        "source_sha256": source.sha256,
        "source_licence": source.licence,
        "source_commercial": source.commercial,
    }
    if strategy == COPY:
        _copy(student, source)
        origins = dict.fromkeys(student.clip.state_dict(), INHERITED)
        return {**summary, "towers": list(TOWERS), "skipped": {}, "origins": origins}
    step0: dict[str, dict[str, float]] = {}
    if plan is None and strategy.startswith(PLAN):
        from students.inherit.plan import read_plan

        plan = read_plan(Path(strategy.removeprefix(PLAN)))
    elif plan is None:
        plan, step0 = _planned(student, source, strategy, terms)
    taken = load_plan(student, source, plan)
    repaired = _repaired(student, source, plan, terms)
    return {
        **summary,
        "towers": [*plan.towers, *plan.adopted],
        "skipped": plan.skipped,
        "across": plan.across,
        "step0": step0,
        "repaired": repaired,
        "origins": {name: taken.get(name, NEW) for name in student.clip.state_dict()},
        "plan": plan.to_json(),
    }


def load_plan(student: "Student", source: ClipWeights, plan: "InheritancePlan") -> dict[str, str]:
    """Slice the source by a plan into the student, and adopt what it adopts. Returns the tensors taken: name -> origin."""
    from students.inherit.apply import apply_plan
    from students.inherit.towers.adopt import adopt_tower

    own = student.clip.state_dict()
    state = apply_plan(plan, source, student.spec.model_cfg, own)
    origins = dict.fromkeys(state, INHERITED)
    for tower in plan.adopted:
        adopted = adopt_tower(student.clip, student.spec.model_cfg, source, tower)
        state |= adopted
        origins |= dict.fromkeys(adopted, ADOPTED)
    for name, value in state.items():
        if name not in own:
            raise DistillError(f"Inheritance made the tensor {name}, which the student lacks. Please report this.")
        if value.shape != own[name].shape:
            raise UsageError(
                f"The plan of inheritance makes {name} {list(value.shape)}, and {student.spec.name} has {list(own[name].shape)}: "
                "make the plan's lists as long as the student's layers, channels, heads and neurons are many."
            )
    student.clip.load_state_dict(state, strict=False)
    return origins


def _planned(
    student: "Student", source: ClipWeights, strategy: str, terms: Terms
) -> "tuple[InheritancePlan, dict[str, dict[str, float]]]":
    """A new plan without the towers that must not be inherited, and the losses measured of those that differ."""
    from distill.core.clip.tokenizer import token_texts
    from students.inherit.planning import make_plan

    pairs = terms.pairs() if STRATEGIES.get(strategy).needs_data else None
    tokens = token_texts(student.tokenizer)
    plan = make_plan(source, student.spec.model_cfg, strategy, student.vocabulary, tokens, pairs)
    step0 = {}
    for tower, facts in plan.across.items():
        odd = [fact for fact in facts if terms.allowed != ALL and fact not in terms.allowed]
        if not odd:
            continue
        how = "; ".join(f"{fact.replace('_', ' ')} differs: {facts[fact]}" for fact in odd)
        allow = f"student.inherit_across = {json.dumps(odd)} allows it"
        losses = _tried(student, source, plan, tower, terms) if terms.allowed == AUTO else None
        if losses is None:
            why = _unmeasured(terms) if terms.allowed == AUTO else "not allowed"
            plan = plan.without(tower, f"{how} ({why}; {allow})")
            continue
        step0[tower] = losses
        if losses["inherited"] >= losses["random"]:
            said = f"step-0 loss {losses['inherited']:.3f}, no better than {losses['random']:.3f} at random"
            plan = plan.without(tower, f"{how} ({said}; {allow})")
    return plan, step0


def _unmeasured(terms: Terms) -> str:
    """Why a start could not be measured."""
    pairs = terms.pairs()
    return "no pairs to measure it on" if pairs is None else f"{len(pairs)} pairs are too few to measure it on"


def _tried(
    student: "Student", source: ClipWeights, plan: "InheritancePlan", tower: str, terms: Terms
) -> dict[str, float] | None:
    """The step-0 loss of a tower at random and inherited; the student is left as it was. None = not to be measured."""
    from students.inherit.calibration import measure

    pairs = terms.pairs()
    if pairs is None or (random := measure(student, source, pairs, tower)) is None:
        return None
    before = {name: value.clone() for name, value in student.clip.state_dict().items()}
    alone = replace(plan, towers={tower: plan.towers[tower]}, adopted=[])
    load_plan(student, source, alone)
    inherited = measure(student, source, pairs, tower)
    student.clip.load_state_dict(before)
    return None if inherited is None else {"random": random, "inherited": inherited}


def _repaired(
    student: "Student", source: ClipWeights, plan: "InheritancePlan", terms: Terms
) -> dict[str, dict[str, Any]]:
    """Repair what the plan's slicing broke. Returns, per tower that is repaired or was tried, how and the losses measured."""
    pairs = terms.pairs() if terms.repair != NONE and plan.towers else None
    from students.inherit.calibration import FEWEST, measure

    if pairs is None or (terms.repair == AUTO and (source.tokenize is None or len(pairs) < FEWEST)):
        return {}
    from students.inherit.repairs.refit import repair

    how = LEAST_SQUARES if terms.repair == AUTO else terms.repair
    result: dict[str, dict[str, Any]] = {}
    for tower in plan.towers:
        before = {name: value.clone() for name, value in student.clip.state_dict().items()}
        alone = replace(plan, towers={tower: plan.towers[tower]})
        mended = repair(how, alone, source, student.spec.model_cfg, before, pairs)
        if all(mended[name].equal(value) for name, value in before.items()):
            continue  # nothing was cut that a repair could make up for
        sliced = measure(student, source, pairs, tower)
        student.clip.load_state_dict(mended)
        after = measure(student, source, pairs, tower)
        keep = terms.repair != AUTO or (sliced is not None and after is not None and after < sliced)
        if not keep:
            student.clip.load_state_dict(before)
        result[tower] = {"how": how if keep else NONE, "sliced": sliced, "repaired": after}
    return result


def _copy(student: "Student", source: ClipWeights) -> None:
    own = student.clip.state_dict()
    state = _of_kept_tokens(student, source)
    odd = sorted(own.keys() ^ state.keys())
    odd += [name for name in own if name in state and own[name].shape != state[name].shape]
    words = state is source.state and source.vocabulary != student.vocabulary
    kind = "" if odd or words else _other_kind(student, source)
    if odd or words or kind:
        what = f"they differ in {odd[0]}" if odd else "their vocabularies differ" if words else kind
        raise UsageError(
            f"student.inherit = 'copy' needs two models of the same architecture, but {source.name!r} is not a "
            f"{student.spec.name!r} ({what}). Choose the student of that name, or another strategy (distill list strategies)."
        )
    student.clip.load_state_dict(state)


def _other_kind(student: "Student", source: ClipWeights) -> str:
    """How a tower computes otherwise from weights of the same names and shapes (QuickGELU, a causal mask); "" where none does."""
    from students.inherit.towers.differences import differences
    from students.inherit.towers.tower import tower_of, tower_of_config

    for which in TOWERS:
        try:
            found = differences(tower_of(source, which), tower_of_config(student.spec.model_cfg, which), None)
        except UsageError:  # no transformer, and so none of these
            continue
        if found:
            return "; ".join(f"{which}: {fact.replace('_', ' ')} is {how}" for fact, how in found.items())
    return ""


def _of_kept_tokens(student: "Student", source: ClipWeights) -> "dict[str, Tensor]":
    """The source's tensors with the rows of the student's tokens alone, where its vocabulary is the source's, cut."""
    from distill.core.clip.tokenizer import token_texts

    tokens = token_texts(student.tokenizer)
    if source.vocabulary == student.vocabulary or tokens is None or source.tokens is None:
        return source.state
    rows = kept_rows(source.tokens, tokens)
    if rows is None:
        return source.state
    tables = [name for name in source.state if any(table in name for table in TOKEN_TABLES)]
    return {**source.state, **{name: source.state[name][rows] for name in tables}}

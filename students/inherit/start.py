"""A student's start from another model's weights: a selection of them by a plan, or every one."""

from typing import TYPE_CHECKING, Any

from distill.core.clip.weights import ClipWeights
from distill.core.errors import DistillError, UsageError
from students.inherit.strategy import STRATEGIES

if TYPE_CHECKING:
    from students.student import Student

COPY = "copy"  # every weight as it is, from a model of the same architecture (fine-tuning)
NONE = "none"  # nothing is inherited
TOWERS = ("visual", "text")


def check_strategy(name: str) -> None:
    """Raise UsageError unless `name` is an inheritance strategy, "copy" or "none"."""
    if name not in (NONE, COPY):
        STRATEGIES.get(name)


def start_from(student: "Student", source: ClipWeights, strategy: str) -> dict[str, Any]:
    """Give `student` what it inherits from `source` under `strategy`, which is "copy" or a name in STRATEGIES.

    Returns:
        What inheritance.json records: strategy, source, source_sha256, the towers inherited, the towers skipped with the
        reason, and but for "copy" the plan.

    Raises:
        UsageError: an unknown strategy, or "copy" between models that are not alike.
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
        return {**summary, "towers": list(TOWERS), "skipped": {}}
    from students.inherit.apply import apply_plan
    from students.inherit.plan import make_plan

    plan = make_plan(source, student.spec.model_cfg, strategy, student.vocabulary)
    state = apply_plan(plan, source, student.spec.model_cfg)
    unexpected = student.clip.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise DistillError(
            f"Inheritance made tensors that the student lacks: {', '.join(unexpected[:3])}. Please report this."
        )
    return {**summary, "towers": list(plan.towers), "skipped": plan.skipped, "plan": plan.to_json()}


def _copy(student: "Student", source: ClipWeights) -> None:
    own = student.clip.state_dict()
    odd = sorted(own.keys() ^ source.state.keys())
    odd += [name for name in own if name in source.state and own[name].shape != source.state[name].shape]
    if odd or source.vocabulary != student.vocabulary:
        what = f"they differ in {odd[0]}" if odd else "their vocabularies differ"
        raise UsageError(
            f"student.inherit = 'copy' needs two models of the same architecture, but {source.name!r} is not a "
            f"{student.spec.name!r} ({what}). Choose the student of that name, or another strategy (distill list strategies)."
        )
    student.clip.load_state_dict(source.state)

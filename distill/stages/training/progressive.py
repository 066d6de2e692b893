"""Progressive stages: a student grows out of its source by several cuts, trained between them as one training.

The schedule, the order of samples and the teacher are those of one training without stages; each stage takes a part of its steps
with a model of a size between. AdamW's moments and the losses' own parameters go on from stage to stage. A stage is a folder
stages/N with checkpoints of its own, so a resume goes on in the stage that it stopped in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from distill.core.errors import UsageError
from distill.recipe import StageRecipe
from distill.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from distill.core.clip.weights import ClipWeights
    from distill.learning.fit import Leg
    from students.spec import StudentSpec
    from students.student import Student

# (architecture, what it starts from, its folder, what that holds of its start) -> the student and what it inherited
Start = Callable[["StudentSpec", "ClipWeights", RunFolder, bool], tuple["Student", dict[str, Any]]]
# (folder, student, what it inherited, steps, the losses' own parameters) -> trained, all of it in the folder
Train = Callable[[RunFolder, "Student", dict[str, Any], "Leg", dict[str, "Tensor"]], None]


@dataclass(frozen=True)
class Beginning:
    """What the last stage, the student itself, begins with.

    Attributes:
        student: sliced from the stage before.
        inherited: what it inherited, as inheritance.json records it; the source is the first one.
        leg: its steps, and AdamW's moments.
        beside: the losses' own parameters.
    """

    student: "Student"
    inherited: dict[str, Any]
    leg: "Leg | None" = None
    beside: "dict[str, Tensor]" = field(default_factory=dict)


def stage_ends(stages: Sequence[StageRecipe], steps: int) -> list[int]:
    """The last step of each stage and of the student itself; stages that say nothing and the student share what is left.

    Raises UsageError where the stages do not shrink, or take all the steps.
    """
    keeps = [stage.keep for stage in stages]
    if keeps != sorted(keeps, reverse=True) or len(set(keeps)) != len(keeps):
        raise UsageError(
            f"student.stages must shrink from one to the next, but keep is {', '.join(f'{k:g}' for k in keeps)}."
        )
    said = sum(stage.steps or 0 for stage in stages)
    sharing = 1 + sum(stage.steps is None for stage in stages)
    if said + sharing > steps:
        raise UsageError(
            f"student.stages take {said} steps, and train.steps is {steps}: nothing is left for {sharing} more. Give more steps."
        )
    ends, left, at = [], steps - said, 0
    for stage in stages:
        share = stage.steps
        if share is None:
            share = left // sharing
            left, sharing = left - share, sharing - 1
        at += share
        ends.append(at)
    return [*ends, steps]


def through_stages(
    spec: "StudentSpec",
    stages: Sequence[StageRecipe],
    steps: int,
    weights: "ClipWeights",
    run: RunFolder,
    start: Start,
    train: Train,
) -> Beginning:
    """Train the stages before the student, each unless it is done. Returns what the student begins with.

    Args:
        spec: of the student.
        stages: of its recipe.
        steps: of the whole training.
        weights: the source.
        run: the arm's folder.
        start, train: see their types.
    """
    from distill.learning import checkpoint as checkpoints
    from distill.learning.fit import Leg
    from students.inherit.stages import grown, slice_moments

    ends, first = stage_ends(stages, steps), 0
    source, took_first = weights, None
    origins: dict[str, str] = {}
    beside: dict[str, Tensor] = {}
    moments: Mapping[str, Mapping[str, Tensor]] = {}
    plans = []
    for number, last in enumerate(ends):
        final = number == len(stages)
        place = run if final else run.stage(number + 1)
        own = spec if final else grown(spec, weights, stages[number].keep)
        student, took = start(own, source, place, final)
        plan = _plan(took)
        plans.append(plan)
        if number:
            _carry_rest(student, source, took)
            moments = slice_moments(moments, plan, source, student.clip.state_dict(), student.spec.model_cfg)
            # All blocks of a tower are of one origin, so a name stands for the tensor that it was sliced from.
            took["origins"] = {name: origins.get(name, origin) for name, origin in took["origins"].items()}
        took_first, origins = took_first or took, took["origins"]
        leg = Leg(first, last, moments)
        if final:
            record = [{"keep": stage.keep, "last_step": end} for stage, end in zip(stages, ends, strict=False)]
            return Beginning(student, _record(took_first, took, plans, record), leg, beside)
        train(place, student, took, leg, beside)
        done = checkpoints.latest(place.checkpoints)
        assert done is not None
        state = checkpoints.read_task(done)
        moments = checkpoints.read_moments(done)
        beside = {name: value for name, value in state.items() if not name.startswith("model.")}
        source, first = _as_source(student, state, number + 1, weights), last
    raise AssertionError("the student itself is the last of the stages")


def _plan(took: dict[str, Any]) -> Any:
    from students.inherit.plan import plan_of

    return plan_of(took["plan"])


def _carry_rest(student: "Student", source: "ClipWeights", took: dict[str, Any]) -> None:
    from students.inherit.stages import carry

    inherited = {name for name, origin in took["origins"].items() if origin != "new"}
    student.clip.load_state_dict(carry(source, student.clip.state_dict(), inherited), strict=False)


def _as_source(student: "Student", state: "dict[str, Tensor]", number: int, weights: "ClipWeights") -> "ClipWeights":
    """A trained stage as what the next one is sliced from."""
    import hashlib

    from distill.core.clip.tokenizer import token_texts

    own = {name.removeprefix("model.clip."): value for name, value in state.items() if name.startswith("model.clip.")}
    student.clip.load_state_dict(own)
    student.eval()
    digest = hashlib.sha256()
    for name in sorted(own):
        digest.update(name.encode() + own[name].contiguous().numpy().tobytes())
    return replace(
        weights,
        name=f"stage {number} from {weights.name.rpartition(' from ')[2]}",
        model_cfg=student.spec.model_cfg,
        state=own,
        sha256=digest.hexdigest(),
        vocabulary=student.vocabulary,
        tokens=token_texts(student.tokenizer),
        model=student.clip,
        normalise=student.normalised,
        tokenize=student.tokenize,
    )


def _record(
    first: dict[str, Any], last: dict[str, Any], plans: list[Any], stages: list[dict[str, Any]]
) -> dict[str, Any]:
    """inheritance.json of a student that went through stages: the first source, the whole way as one plan where one can say it."""
    from functools import reduce

    from students.inherit.plan import compose

    try:
        whole = reduce(compose, plans).to_json()
    except UsageError:
        whole = last["plan"]
    return {
        **first, "towers": last["towers"], "skipped": {**first["skipped"], **last["skipped"]}, "origins": last["origins"],
        "plan": whole, "stages": stages, "transition": last,
    }  # fmt: skip

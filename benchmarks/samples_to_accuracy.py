"""How many samples a student needs from each start: random, inherited by each strategy, and through a stage between.

    python -m benchmarks.samples_to_accuracy --out /tmp/samples                     # the embedded default, 3 seeds
    python -m benchmarks.samples_to_accuracy --out /tmp/samples --arms random@50 taylor+repair@50 --seeds 0

An arm is a strategy of inheritance (or "random"), "+repair" where what was sliced is repaired, and behind the @ the shares of the source's weights
(token embeddings apart, in percent) that are kept: "taylor@50" is sliced once to the architecture between source and student that is nearest to half,
"taylor@100-50-25" first trains that one and slices the student out of it. Arms that end at one share have the same student. All have the same teacher,
samples, order, schedule, objective and number of samples; a seed changes the initial weights and the draws. Checkpoints along one training are judged,
and what a stage ends with, the larger model. "To reach" is the first at which the mean over seeds is no lower than that of random@SHARE at its
end. Every figure is kept as soon as it is there, and not measured again by the next call with this --out, which also goes on where one was stopped.
Prints Markdown tables with machine and date.
"""

import argparse
import datetime
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.console import Console
from distill.core import atomic
from distill.core.clip.model import count_parameters
from distill.core.errors import UsageError
from distill.core.progress import silent
from distill.evaluation.evalset import evaluate_model, student_embedder
from distill.learning import checkpoint as checkpoints
from distill.models import TeacherSet, student_spec
from distill.recipe import Recipe, StageRecipe, load_recipe
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evalset
from distill.stages.reinforce import reinforce_stage
from distill.stages.train import train_model
from distill.stages.training.arm import Arm
from distill.stages.training_data import stored_pairs
from students.inherit.stages import grown
from students.inherit.towers.tower import skeleton
from students.spec import STUDENTS, StudentSpec
from students.student import Student, build_student, load_student

ARMS = (
    "random@50", "front@50", "uniform@50", "activation@50", "taylor@50", "random@25", "taylor@25", "taylor@100-50-25",
)  # fmt: skip
RANDOM, REPAIR = "random", "repair"
KEYS = (("text-to-image R@1", "retrieval", "t2i_r1"), ("zero-shot top-1", "zero_shot", "top1"))
STEPS = [step / 100 for step in range(30, 100, 5)]  # of `keep`, among which a share of the weights is looked for
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Start:
    """One arm: how its student starts.

    Attributes:
        name: as it is called on the command line.
        strategy: of inheritance, or "random".
        repair: whether what was sliced is repaired.
        shares: percent of the source's weights, of each stage and of the student.
    """

    name: str
    strategy: str
    repair: bool
    shares: tuple[int, ...]


def start_of(name: str) -> Start:
    """The arm of a name. Raises UsageError for one that is none."""
    how, _, shares = name.partition("@")
    strategy, *extras = how.split("+")
    parts = [part for part in shares.split("-") if part != "100"]
    falling = all(part.isdigit() for part in parts) and [*map(int, parts)] == sorted({*map(int, parts)}, reverse=True)
    if extras not in ([], [REPAIR]) or not parts or not falling:
        raise UsageError(
            f"{name!r} is no arm: say STRATEGY@SHARE, as taylor@50, taylor+repair@50, taylor@100-50-25 or random@50."
        )
    return Start(name, strategy, bool(extras), tuple(map(int, parts)))


class Sizes:
    """The architectures between a source and a student, by their share of the source's weights."""

    def __init__(self, spec: StudentSpec, source: Any) -> None:
        self.spec, self.source = spec, source
        self.whole = _weights(source.model_cfg)
        self.found = {1.0: self._share(spec)}  # keep -> share; 1 stands for the student itself
        for keep in STEPS:
            try:
                self.found[keep] = self._share(grown(spec, source, keep))
            except UsageError:  # no larger than the student
                continue

    def _share(self, spec: StudentSpec) -> float:
        return _weights(build_student(spec, 0).spec.model_cfg) / self.whole

    def keep(self, percent: int) -> float:
        """The `keep` of the architecture that is nearest to a share of the source's weights; 1 = the student itself."""
        return min(self.found, key=lambda keep: abs(self.found[keep] - percent / 100))

    def student(self, percent: int) -> str:
        """The name of that architecture, which a recipe may give from now on."""
        keep = self.keep(percent)
        if keep == 1:
            return self.spec.name
        spec = grown(self.spec, self.source, keep)
        if spec.name not in STUDENTS:
            STUDENTS.register(spec.name)(spec)
        return spec.name

    def percent(self, percent: int) -> str:
        """What that architecture really keeps."""
        return f"{self.found[self.keep(percent)]:.0%}"


def _weights(model_cfg: dict[str, Any]) -> int:
    counts = count_parameters(skeleton(model_cfg))
    return counts["image"] + counts["text"]


def curve(
    recipe: Recipe, start: Start, sizes: Sizes, seed: int, pairs: Any, data: Any, teachers: TeacherSet, out: Path
) -> Rows:
    """Samples and figures along one training, in its stages and behind them."""
    file = out / "curve.json"
    if file.exists():
        return list(atomic.read_json(file))
    *between, last = start.shares
    student = recipe.student.model_copy(
        update={
            "name": sizes.student(last),
            "repair": "auto" if start.repair else "none",
            "stages": tuple(StageRecipe(keep=sizes.keep(share)) for share in between),
        }
    )
    job = recipe.model_copy(update={"seed": seed, "student": student})
    inherit = "none" if start.strategy == RANDOM else start.strategy
    run = RunFolder(out)
    train_model(job, Arm(start.name, run, recipe.objective, inherit, teachers), pairs, "benchmark", silent)
    rows = []
    for number, stage in enumerate(atomic.read_json(run.inheritance).get("stages", []), start=1):
        found = _judged(recipe, load_student(run.stage(number).student), stage["last_step"], data)
        rows.append({**found, "stage": number})
    model = load_student(run.student)
    for folder in sorted(run.checkpoints.glob("step-*")):
        done = checkpoints.Checkpoint(folder, int(folder.name[5:]))
        state = checkpoints.read_task(done)
        inside = {n.removeprefix("model.clip."): v for n, v in state.items() if n.startswith("model.clip.")}
        model.clip.load_state_dict(inside)
        rows.append(_judged(recipe, model, done.step, data))
    atomic.write_json(file, rows)
    return rows


def _judged(recipe: Recipe, model: Student, step: int, data: Any) -> dict[str, Any]:
    """The figures of a model after a step."""
    found = evaluate_model(student_embedder(model.eval(), "benchmark"), data, recipe.eval.batch_size)
    figures = {key: found[part][key] for _, part, key in KEYS if found[part] is not None}
    return {"samples": step * recipe.train.batch_size, **figures}


def tables(curves: dict[str, list[Rows]], sizes: Sizes) -> str:
    """A table per share that arms end at: figures at the end, mean and range over seeds, and the samples to random's end."""
    shares = sorted({start_of(name).shares[-1] for name in curves}, reverse=True)
    parts = []
    for share in shares:
        own = {name: runs for name, runs in curves.items() if start_of(name).shares[-1] == share}
        parts.append(f"{sizes.percent(share)} of the source's weights kept:\n\n{table(own, f'{RANDOM}@{share}')}")
    return "\n\n".join(parts)


def table(curves: dict[str, list[Rows]], goal_of: str) -> str:
    """One table; `goal_of` is the arm whose end the others are to reach, "-" where it was not run."""
    used = [(label, key) for label, _, key in KEYS if all(key in runs[0][-1] for runs in curves.values())]
    heads = [f"{label} | samples to reach random's end" for label, _ in used]
    lines = ["| start | " + " | ".join(heads) + " |", "|---|" + "---:|" * (2 * len(used))]
    for name, runs in curves.items():
        cells = []
        for _, key in used:
            ends = [run[-1][key] for run in runs]
            cells.append(f"{np.mean(ends):.1f} ({min(ends):.1f} to {max(ends):.1f})")
            cells.append(_to_reach(runs, curves.get(goal_of), key))
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _to_reach(runs: list[Rows], goal_runs: list[Rows] | None, key: str) -> str:
    """Samples until the mean over seeds is that of the goal's end, and their share of the goal's own; no larger model counts."""
    if goal_runs is None:
        return "-"
    goal, whole = np.mean([run[-1][key] for run in goal_runs]), goal_runs[0][-1]["samples"]
    for i, row in enumerate(runs[0]):
        if "stage" not in row and np.mean([run[i][key] for run in runs]) >= goal:
            return f"{row['samples']:,} ({row['samples'] / whole:.0%})"
    return "never"


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--points", type=int, default=8, help="along a training")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    starts = [start_of(name) for name in given.arms]
    recipe = load_recipe(given.recipe, given.sets)
    kept = {"checkpoint_every": max(1, recipe.train.steps // given.points), "checkpoint_minutes": None}
    recipe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={**kept, "keep_checkpoints": recipe.train.steps})}
    )
    given.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    teachers = TeacherSet(recipe.teachers, random_weights=False, seed=0)
    stored = reinforce_stage(recipe, teachers, RunFolder(given.out), console)
    pairs, data = stored_pairs(recipe, stored, None), open_evalset(recipe)
    sizes = Sizes(student_spec(recipe.student), teachers.loaded[0].inheritable())
    curves: dict[str, list[Rows]] = {}
    for seed in given.seeds:  # outermost, so that a slow hour of the machine hits all arms
        for start in starts:
            with console.stage(f"{start.name}, seed {seed}"):
                place = given.out / f"{start.name}-{seed}"
                curves.setdefault(start.name, []).append(
                    curve(recipe, start, sizes, seed, pairs, data, teachers, place)
                )
            atomic.write_json(given.out / "result.json", curves)
    samples = recipe.train.steps * recipe.train.batch_size
    print(f"\n{samples:,} samples each, seeds {', '.join(map(str, given.seeds))}; ", end="")
    print(f"{platform.processor() or platform.machine()}, {datetime.date.today()}.\n\n{tables(curves, sizes)}")


if __name__ == "__main__":
    main()

"""How many samples a student needs from each start: random, and inherited by each strategy, as it is sliced and repaired.

    python -m benchmarks.samples_to_accuracy --out /tmp/samples                        # the embedded default, 3 seeds: about half an hour
    python -m benchmarks.samples_to_accuracy --out /tmp/smoke --set train.steps=8 --set train.batch_size=64 --seeds 0 --arms random taylor+repair

Every arm has the same student, teacher, samples, order, schedule and objective; a seed changes the initial weights and the draws. Checkpoints along
one training are judged, so a point before the end is a point of the whole schedule. "reaches" is the first of them at which the mean over seeds is no
lower than the random start's at the end. A figure that is there is not measured again. Prints a Markdown table with machine and date.
"""

import argparse
import datetime
import platform
from pathlib import Path
from typing import Any

import numpy as np

from distill.console import Console
from distill.core import atomic
from distill.core.progress import silent
from distill.evaluation.evalset import evaluate_model, student_embedder
from distill.learning import checkpoint as checkpoints
from distill.models import TeacherSet
from distill.recipe import Recipe, StageRecipe, load_recipe
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evalset
from distill.stages.reinforce import reinforce_stage
from distill.stages.train import train_model
from distill.stages.training.arm import Arm
from distill.stages.training_data import stored_pairs
from students.student import build_student, load_student

ARMS = (
    "random", "front", "uniform", "magnitude", "activation", "taylor", "front+repair", "magnitude+repair", "taylor+repair",
    "taylor+repair+stage",
)  # fmt: skip
STAGE = 0.8  # of the source, halfway in depth and width between it and the student
KEYS = (("text-to-image R@1", "retrieval", "t2i_r1"), ("zero-shot top-1", "zero_shot", "top1"))


def curve(recipe: Recipe, arm: str, seed: int, pairs: Any, data: Any, teachers: TeacherSet, out: Path) -> list[dict]:
    """Samples and figures along one training."""
    file = out / "curve.json"
    if file.exists():
        return list(atomic.read_json(file))
    strategy, *extras = arm.split("+")
    student = recipe.student.model_copy(
        update={
            "repair": "auto" if "repair" in extras else "none",
            "stages": (StageRecipe(keep=STAGE),) if "stage" in extras else (),
        }
    )
    job = recipe.model_copy(update={"seed": seed, "student": student})
    start = "none" if strategy == "random" else strategy
    one = Arm(arm, RunFolder(out), recipe.objective, start, teachers)
    train_model(job, one, pairs, "benchmark", silent)
    model, rows = load_student(out / "student"), []
    for folder in sorted(one.run.checkpoints.glob("step-*")):  # of the student itself, where there are stages before it
        done = checkpoints.Checkpoint(folder, int(folder.name[5:]))
        state = checkpoints.read_task(done)
        model.clip.load_state_dict(
            {n.removeprefix("model.clip."): v for n, v in state.items() if n.startswith("model.clip.")}
        )
        found = evaluate_model(student_embedder(model.eval(), arm), data, recipe.eval.batch_size)
        figures = {key: found[part][key] for _, part, key in KEYS if found[part] is not None}
        rows.append({"samples": done.step * recipe.train.batch_size, **figures})
    atomic.write_json(file, rows)
    return rows


def table(curves: dict[str, list[list[dict]]]) -> str:
    """Per arm the mean and the range over seeds at the end, and the samples to the random start's end."""
    used = [(label, key) for label, _, key in KEYS if all(key in runs[0][-1] for runs in curves.values())]
    heads = [f"{label} | samples to reach random's end" for label, _ in used]
    lines = ["| start | " + " | ".join(heads) + " |", "|---|" + "---:|" * (2 * len(used))]
    for arm, runs in curves.items():
        cells = []
        for _, key in used:
            ends = [run[-1][key] for run in runs]
            cells.append(f"{np.mean(ends):.1f} ({min(ends):.1f} to {max(ends):.1f})")
            goal = np.mean([run[-1][key] for run in curves["random"]]) if "random" in curves else np.inf
            means = {row["samples"]: np.mean([run[i][key] for run in runs]) for i, row in enumerate(runs[0])}
            reached = [samples for samples, value in means.items() if value >= goal]
            cells.append(f"{reached[0]:,} of {runs[0][-1]['samples']:,}" if reached else "never")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--points", type=int, default=10, help="along a training")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    recipe = load_recipe(given.recipe, given.sets)
    every = max(1, recipe.train.steps // given.points)
    kept = {"checkpoint_every": every, "checkpoint_minutes": None, "keep_checkpoints": recipe.train.steps}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=kept)})
    given.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    teachers = TeacherSet(recipe.teachers, random_weights=False, seed=0)
    stored = reinforce_stage(recipe, teachers, RunFolder(given.out), console)
    pairs, data = stored_pairs(recipe, stored, None), open_evalset(recipe)
    curves: dict[str, list[list[dict]]] = {}
    for seed in given.seeds:  # outermost, so that a slow hour of the machine hits all arms
        for arm in given.arms:
            with console.stage(f"{arm}, seed {seed}"):
                place = given.out / f"{arm}-{seed}"
                curves.setdefault(arm, []).append(curve(recipe, arm, seed, pairs, data, teachers, place))
    atomic.write_json(given.out / "result.json", curves)
    source, own = teachers.loaded[0].parameters or {}, build_student_counts(recipe)
    print(f"\n{own / max(1, sum(source.values())):.0%} of the source's parameters; seeds {given.seeds}; ", end="")
    print(f"{platform.processor() or platform.machine()}, {datetime.date.today()}\n\n{table(curves)}")


def build_student_counts(recipe: Recipe) -> int:
    """Parameters of the recipe's student."""
    from distill.models import student_spec

    return sum(p.numel() for p in build_student(student_spec(recipe.student), 0).clip.parameters())


if __name__ == "__main__":
    main()

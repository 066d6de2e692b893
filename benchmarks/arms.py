"""What distillation buys: the same student, samples, views and captions, trained in several ways, 3 seeds each.

    python -m benchmarks.arms --out /tmp/default-arms
    python -m benchmarks.arms --recipe flickr8k-mci0 --teacher runs/sail/teacher --data ../shared/data/flickr8k --out /tmp/flickr-arms \\
        --arms distilled plain

The data is reinforced once (seed 0); a seed changes the student's initial weights and its draws. Arms of one seed run one after the other,
seeds outermost, so that a slow hour of the machine hits all arms. Prints a Markdown table (mean, and min to max over seeds) with machine and
date, and writes every figure to OUT/result.json. A figure that is there is not measured again.
"""

import argparse
import datetime
import importlib
import platform
import resource
from pathlib import Path

import numpy as np

from distill.console import Console
from distill.core import atomic
from distill.core.clip.model import count_parameters
from distill.core.existing import Existing
from distill.evaluation.evalset import evaluate_model, student_embedder, teacher_embedder
from distill.models import TeacherSet
from distill.processes import this_place
from distill.recipe import Recipe, load_recipe
from distill.run_folder import RunFolder
from distill.stages.budget import settle
from distill.stages.evaluate import open_evalset
from distill.stages.reinforce import reinforce_stage
from distill.stages.train import train_model
from distill.stages.training.arm import Arm
from distill.stages.training_data import stored_pairs, texts_stage
from students.student import load_student

ARMS = {  # name -> (objective or None for the recipe's, inherits)
    "distilled": (None, True),
    "plain": ("clip", False),
    "distilled, random start": (None, False),
    "inherited, no teacher": ("clip", True),
}
KEYS = (
    ("zero-shot top-1", "zero_shot", "top1"),
    *((f"{way} R@{k}", "retrieval", f"{way.lower()}_r{k}") for way in ("T2I", "I2T") for k in (1, 5, 10)),
)


def measure(recipe: Recipe, arms: list[str], seeds: list[int], out: Path) -> dict:
    console = Console()
    teachers = TeacherSet(recipe.teachers, random_weights=False, seed=0)
    stored = reinforce_stage(recipe, teachers, RunFolder(out), console)
    data = open_evalset(recipe)
    result = {"teacher": [evaluate_model(teacher_embedder(t), data, recipe.eval.batch_size) for t in teachers.loaded]}
    texts_stage(recipe, teachers, stored, RunFolder(out), console)
    pairs = stored_pairs(recipe, stored, None, RunFolder(out))
    for seed in seeds:
        for arm in arms:
            folder = out / f"{arm.replace(' ', '-').replace(',', '')}-{seed}"
            objective, inherits = ARMS[arm]
            with console.stage(f"{arm}, seed {seed}") as advance:
                start = recipe.student.inherit if inherits else "none"
                loss, plain = (recipe.objective, False) if objective is None else (objective, True)
                one = Arm(arm, RunFolder(folder), loss, start, teachers, plain)
                figures = folder / "figures.json"
                if not figures.exists():
                    began = core_minutes()
                    train_model(recipe.model_copy(update={"seed": seed}), one, pairs, "benchmark", advance)
                    student, spent = load_student(folder / "student"), core_minutes() - began
                    found = evaluate_model(student_embedder(student, arm), data, recipe.eval.batch_size)
                    counts = sum(count_parameters(student.clip).values())
                    atomic.write_json(figures, {**found, "core_minutes": spent, "parameters": counts})
                result.setdefault(arm, []).append(atomic.read_json(figures))
    return result


def core_minutes() -> float:
    """What this process and its finished children have had of the processor, which a busy machine does not lengthen by much."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) / 60


def table(result: dict) -> str:
    used = [(label, part, key) for label, part, key in KEYS if result["teacher"][0][part] is not None]
    heads = [*(label for label, _, _ in used), "M parameters", "minutes of a core"]
    lines = ["| model | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for arm, runs in result.items():
        cells = []
        for _, part, key in used:
            values = [run[part][key] for run in runs]
            spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}")
        cells += [f"{runs[0]['parameters'] / 1e6:.2f}" if "parameters" in runs[0] else ""]
        cells += [f"{np.mean([run['core_minutes'] for run in runs]):.1f}" if "core_minutes" in runs[0] else ""]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe")
    parser.add_argument("--teacher", action="append")
    parser.add_argument("--data")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--plugin", help="module that registers more students, as benchmarks.flickr_vit")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.plugin:
        importlib.import_module(given.plugin)
    teachers = tuple(given.teacher) if given.teacher else None
    recipe = load_recipe(given.recipe, given.sets, {"teachers": teachers, "data": given.data})
    given.out.mkdir(parents=True, exist_ok=True)
    # Epochs become steps, and what the student's authors published is filled in, as in a run.
    recipe, _ = settle(recipe, RunFolder(given.out), Existing.REFUSE, this_place(), Console())
    result = measure(recipe, given.arms, given.seeds, given.out)
    atomic.write_json(given.out / "result.json", result)
    samples = recipe.train.steps * recipe.train.batch_size
    print(
        f"\n{samples} samples, seeds {given.seeds}; {platform.processor() or platform.machine()}, {platform.node()}, {datetime.date.today()}\n"
    )
    print(table(result))


if __name__ == "__main__":
    main()

"""What a student of few photos is worth, beside the plain student that trained as long by the clock.

    python -m benchmarks.few_photos --teacher runs/sail/teacher --photos ../shared/data/flickr8k [--seeds 3] --out runs/few

A shop's photos with a CSV whose columns nobody foresaw are made of a set at hand. `distill run` chooses the length of training and judges the student and
the plain one, which trained for as many steps, on the set's own evaluation part. The plain student's steps cost less, so another one is trained for as many more
as fill the student's time, and judged too; all of it once for each seed.
"""

import argparse
import csv
import math
import platform
import statistics
from pathlib import Path
from typing import Any

import distill
from distill.core import atomic
from distill.evaluation.evalset import evaluate_model, student_embedder
from distill.evaluation.verdict import METRICS, gain
from distill.recipe import load_recipe
from distill.reporting.summary import summary
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evalset
from students.student import load_student

COLUMNS = ("photo", "product_name")  # of the table, which has others too


def shop(photos: str, count: int, folder: Path) -> Path:
    """`count` training photos with a caption each, in a folder with one table."""
    from reinforced_data.source import open_source

    source = open_source(photos, "train", count)
    (folder / "img").mkdir(parents=True, exist_ok=True)
    with open(folder / "products.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("sku", *COLUMNS, "price"))
        for number in range(len(source)):
            sample = source[number]
            (folder / "img" / f"{number:04}.jpg").write_bytes(sample.image)
            table.writerow((f"A{number:04}", f"{number:04}.jpg", sample.captions[0].text, "9.90"))
    return folder


def equal_time(run: RunFolder) -> dict[str, Any]:
    """The file of figures of a plain student that trained as long as the run's student took, closed forms included."""
    recipe = run.read_recipe()
    seconds = atomic.read_json(run.seconds)
    steps = math.ceil(recipe.train.steps * seconds["train student"] / seconds["train plain student"])
    out = Path(f"{run}-plain-{steps}-steps")
    if not RunFolder(out).student.exists():
        settings = {"objective": recipe.baseline.objective, "student.inherit": "none", "student.project": "none"}
        distill.train(load_recipe(str(run.recipe), settings), data=run.reinforced, steps=steps, out=out)
    embedder = student_embedder(load_student(RunFolder(out).student), "plain, equal time")
    result = evaluate_model(embedder, open_evalset(recipe), recipe.eval.batch_size)
    return {"role": "plain, equal time", "steps": steps, **result}


def judged(given: argparse.Namespace, place: Path, seed: int) -> dict[str, float]:
    """Run one seed and print what it says. Returns text-to-image R@1 of the student and of both plain ones."""
    out = Path(f"{given.out}-seed-{seed}")
    settings = [f"eval.data={given.photos}", f"eval.limit={given.judged_on}", f"seed={seed}", *given.settings]
    done = distill.run(
        given.recipe, teacher=given.teacher, data=place, image_column=COLUMNS[0], caption_column=COLUMNS[1], target="onnx",
        out=out, resume=out.exists(), settings=settings,
    )  # fmt: skip
    run = RunFolder(out)
    student, plain = (atomic.read_json(run.eval_of(role)) for role in ("student", "plain"))
    other = equal_time(run)
    found = gain(student, other, METRICS[1])
    print(f"seed {seed}; seconds: {atomic.read_json(run.seconds)}")
    for reason in atomic.read_json(run.resolved)["filled"].items():
        print("filled:", *reason)
    print("\n".join(summary(done.facts)))
    figures = {
        "student": student["retrieval"]["t2i_r1"],
        "plain, equal steps": plain["retrieval"]["t2i_r1"],
        "plain, equal time": other["retrieval"]["t2i_r1"],
    }
    print(
        f"Against the plain student that trained as long by the clock ({other['steps']} steps, R@1 {figures['plain, equal time']:.1f}): "
        f"{found['points']:+.1f} points [{found['low']:.1f}, {found['high']:.1f}] of text-to-image R@1.",
        flush=True,
    )
    return figures


def main(argv: list[str] | None = None) -> None:
    """Parse, run each seed with its third student, print the spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--photos", required=True, help="data with an evaluation part of its own")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--judged-on", type=int, default=500, help="at most so many photos of the evaluation part")
    parser.add_argument("--recipe", default="photos")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    given = parser.parse_args(argv)
    print(f"{given.count} photos, {platform.processor() or platform.machine()}")
    place = shop(given.photos, given.count, Path(f"{given.out}-shop"))
    every = [judged(given, place, seed) for seed in range(given.seeds)]
    print(f"text-to-image R@1 of {given.seeds} seeds, mean (least to greatest):")
    for name in every[0]:
        values = [each[name] for each in every]
        print(f"{name}: {statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()

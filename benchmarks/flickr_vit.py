"""A ViT with a text transformer, distilled from a teacher of other towers on real photos: what the inheritance benchmarks inherit from.

    python -m benchmarks.flickr_vit --teacher runs/sail/teacher --data ../shared/data/flickr8k --out /tmp/flickr-vit

The main job's real teacher (`sail-lite0-minilm`) is made of a convolutional tower and a BERT, whose weights no student can take. This makes one that
students can: 64 pixels, patches of 8, heads of 32 channels. Leaves OUT/reinforced (the teacher's labels, which every benchmark of
inheritance trains on too) and OUT/source/student with its figures.
"""

import argparse
import datetime
import platform
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.evaluation.evalset import evaluate_model, student_embedder
from distill.models import TeacherSet
from distill.recipe import Recipe, load_recipe
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evalset
from distill.stages.reinforce import reinforce_stage
from distill.stages.train import train_model
from distill.stages.training.arm import Arm
from distill.stages.training_data import stored_pairs
from students.spec import STUDENTS, StudentSpec
from students.student import load_student

HEAD_WIDTH = 32
CONTEXT = 24  # tokens; 99 % of Flickr8k's captions are shorter


def vit_spec(
    name: str, *, width: int, layers: int, mlp: int, text_width: int, text_layers: int, text_mlp: int
) -> StudentSpec:
    """A plain ViT and a causal text transformer at 64 pixels; `mlp` in channels."""
    vision = {"image_size": 64, "patch_size": 8, "width": width, "layers": layers, "head_width": HEAD_WIDTH, "mlp_ratio": mlp / width}  # fmt: skip
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": text_width, "heads": text_width // HEAD_WIDTH,
            "layers": text_layers, "mlp_ratio": text_mlp / text_width}  # fmt: skip
    cfg = {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text}
    return StudentSpec(name, cfg, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), note="benchmarks of inheritance")


SOURCE = "flickr-vit"
STUDENTS.register(SOURCE)(vit_spec(SOURCE, width=192, layers=8, mlp=768, text_width=128, text_layers=4, text_mlp=512))
HALF = "flickr-vit-half"  # 50 % of its encoder parameters
STUDENTS.register(HALF)(vit_spec(HALF, width=160, layers=6, mlp=640, text_width=96, text_layers=3, text_mlp=384))


def bench_recipe(teacher: str, data: str, sets: list[str]) -> Recipe:
    """The labels, and the settings of training that source and students share."""
    given: dict[str, Any] = {
        "teachers": (teacher,), "data": data, "objective": "small-batch", "student.name": SOURCE, "student.inherit": "none",
        "reinforce.views_per_image": 2, "reinforce.view_preset": "light", "reinforce.verify": 0,
        "train.batch_size": 128, "train.lr": 1e-3, "train.steps": 940, "train.warmup_steps": 50, "train.weight_decay": 0.1,
        "train.replay": "fast", "train.checkpoint_every": 94, "train.keep_checkpoints": 10, "train.log_every": 20,
    }  # fmt: skip
    return load_recipe(None, sets, given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    recipe, console, out = bench_recipe(given.teacher, given.data, given.sets), Console(), given.out
    out.mkdir(parents=True, exist_ok=True)
    teachers = TeacherSet(recipe.teachers, random_weights=False, seed=0)
    stored = reinforce_stage(recipe, teachers, RunFolder(out), console)
    with console.stage("train the source") as advance:
        arm = Arm("source", RunFolder(out / "source"), recipe.objective, "none", teachers)
        train_model(recipe, arm, stored_pairs(recipe, stored, None), "benchmark", advance)
    figures = evaluate_model(
        student_embedder(load_student(out / "source" / "student"), SOURCE), open_evalset(recipe), 128
    )
    samples = recipe.train.steps * recipe.train.batch_size
    atomic.write_json(out / "source" / "figures.json", figures | {"samples": samples})
    print(f"{SOURCE} after {samples} samples: {figures['retrieval']}; {platform.machine()}, {datetime.date.today()}")


if __name__ == "__main__":
    main()

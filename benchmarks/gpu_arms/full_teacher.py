"""A full teacher, trained on captioned photos and used as a teacher in the next step, as `distill train` and `distill reinforce` do."""

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_arms.bench import Bench, rendering
from reinforced_data.source import open_source


def full_teacher_part(bench: Bench, synthetic: Any, flickr: Path | None, folder: Path) -> dict[str, Any]:
    """Plain CLIP on Flickr8k where it is, else on the synthetic images; then the trained folder labels, and what it stored is verified.

    Figures: samples a second and the data's share of waiting, the loss at the first and the last logged step, retrieval on images that were held
    out, views a second of labelling, and the least cosine of a stored embedding with the live teacher.
    """
    from accelerate.state import AcceleratorState

    from distill.core.progress import silent
    from distill.evaluation.evalset import evaluate_model, load_evalset, student_embedder
    from distill.run_folder import RunFolder
    from distill.stages.train import train_model
    from distill.stages.training.arm import Arm
    from reinforced_data.training.pairs import RawPairs
    from students.spec import STUDENTS
    from students.student import load_student

    sizes = bench.sizes
    train, held_out = (
        (synthetic, synthetic) if flickr is None else (open_source(str(flickr), part) for part in ("train", "eval"))
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = full_teacher_recipe(bench)
    run = RunFolder(folder / "full")
    pairs = RawPairs(train, "light", STUDENTS.get(sizes.full_teacher).image_size)
    started = time.perf_counter()
    trained = train_model(recipe, Arm("full teacher", run, recipe.objective, "none", None), pairs, "benchmark", silent)
    found: dict[str, Any] = {
        "model": sizes.full_teacher,
        "data": "synthetic" if flickr is None else f"flickr8k, {len(train):,} images",
        "batch": recipe.train.batch_size,
    }
    found |= {"steps": recipe.train.steps, "train_s": round(bench.wait() - started, 1), **_of_metrics(run.metrics)}
    student = load_student(trained).to(bench.device).eval()
    figures = evaluate_model(student_embedder(student, sizes.full_teacher), load_evalset(held_out), 128)
    found |= {f"eval_{name}": round(value, 2) for name, value in figures["retrieval"].items() if name.endswith("r1")}
    return {**found, **_as_teacher(bench, trained, train, folder / "labelled")}


def full_teacher_recipe(bench: Bench) -> Any:
    """The recipe of a full teacher: no teachers, plain CLIP."""
    from distill.recipe import load_recipe

    sizes = bench.sizes
    return load_recipe(None, [], {
        "teachers": (), "objective": "clip", "student.name": sizes.full_teacher, "student.inherit": "none",
        "reinforce.view_preset": "light", "train.batch_size": sizes.full_batch, "train.steps": sizes.full_steps,
        "train.warmup_steps": max(1, sizes.full_steps // 10), "train.lr": 5e-4, "train.precision": "bf16",
        "train.log_every": max(1, sizes.full_steps // 10), "train.checkpoint_every": sizes.full_steps,
        "train.workers": sizes.workers, "train.device": "auto" if bench.device == "cuda" else "cpu",
    })  # fmt: skip


def _of_metrics(file: Path) -> dict[str, Any]:
    import json

    rows = [json.loads(line) for line in file.read_text().splitlines() if "samples_per_s" in line]
    used = rows[len(rows) // 2 :]
    return {
        "samples_per_s": round(statistics.median(row["samples_per_s"] for row in used), 1),
        "data_wait_share": round(statistics.mean(row["data_wait_share"] for row in used), 4),
        "loss_first": round(rows[0]["loss"], 3), "loss_last": round(rows[-1]["loss"], 3),
    }  # fmt: skip


class _Few:
    """The first samples of a source."""

    def __init__(self, source: Any, count: int) -> None:
        self._source, self._count = source, min(count, len(source))
        self.name, self.licence, self.fingerprint = source.name, source.licence, source.fingerprint

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._source[index]


def _as_teacher(bench: Bench, trained: Path, source: Any, folder: Path) -> dict[str, Any]:
    """The trained folder by its path, as `--teacher PATH` reads it: labelling some images, and what was stored against the live model."""
    from reinforced_data.labelling.reinforce import reinforce
    from reinforced_data.labelling.settings import ReinforceSettings
    from reinforced_data.labelling.verify import verify
    from teachers.load import load_teacher

    teacher = load_teacher(str(trained)).to(bench.device)
    few = _Few(source, bench.sizes.images)
    settings = ReinforceSettings.model_validate(
        {"views_per_image": bench.sizes.views, "batch_size": 128, "shard_size": 256, "rendering": rendering()}
    )
    started = bench.wait()
    reinforce(few, [teacher], folder, settings)  # type: ignore[arg-type]
    rate = len(few) * bench.sizes.views / (bench.wait() - started)
    report = verify(folder, [teacher], 32)
    (worst,) = ((of["image_min"], of["text_min"]) for of in report["teachers"].values())
    return {"labelled_views_per_s": round(rate, 1), "verified": report["passed"], "least_cosine": round(min(worst), 6)}

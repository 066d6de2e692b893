"""A teacher alone, labelling with it, and evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_arms.bench import Bench, rendering, time_of, utilised


def labelling_part(bench: Bench, source: Any, precision: str, folder: Path) -> dict[str, Any]:
    """Views a second of the teacher alone, and of labelling with it: decoding, rendering, captions, storing and all."""
    from distill.core.errors import DistillError
    from reinforced_data.labelling.encode import encode_images
    from reinforced_data.labelling.reinforce import reinforce
    from reinforced_data.labelling.settings import ReinforceSettings
    from teachers.load import load_teacher

    size = min(128, len(source))
    teacher = load_teacher(bench.sizes.teacher, random_weights=True, seed=0).to(bench.device)
    side = teacher.spec.image_size
    views = [np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8) for i in range(size)]
    few = torch.rand(2, 3, side, side, device=bench.device)
    with FlopCounterMode(display=False) as counted:
        teacher.encode_image(few)
    bare = size / time_of(bench, lambda: encode_images(teacher, views, precision), 3)  # type: ignore[arg-type]
    found = {
        "batch": size,
        "rendering": rendering(),
        "bare_views_per_s": round(bare, 1),
        **utilised(bench, bare, counted.get_total_flops() / 2),
    }
    settings = ReinforceSettings.model_validate(
        {
            "views_per_image": bench.sizes.views,
            "batch_size": size,
            "shard_size": 256,
            "teacher_precision": precision,
            "rendering": rendering(),
        }
    )
    for workers in sorted({0, bench.sizes.workers}):  # threads, and processes where there are cores for them
        started = bench.wait()
        place = folder if workers == 0 else folder.with_name(f"{folder.name}-{workers}")
        try:
            reinforce(source, [teacher], place, settings, workers=workers)
        except DistillError as error:  # random weights may be rounded worse than trained ones
            return {**found, "labelling": f"refused: {error}"}
        labelled = len(source) * bench.sizes.views / (bench.wait() - started)
        by = f"_by_{workers}_processes" if workers else ""
        found |= {f"labelled_views_per_s{by}": round(labelled, 1), f"share_of_bare{by}": round(labelled / bare, 3)}
    return {**found, "peak_gb": bench.peak_gb()}


def evaluation_part(bench: Bench, name: str, source: Any) -> dict[str, Any]:
    """Images a second of retrieval, decoding and the metrics included."""
    from distill.evaluation.evalset import evaluate_model, load_evalset, student_embedder
    from students.spec import STUDENTS
    from students.student import build_student

    data = load_evalset(source)
    student = build_student(STUDENTS.get(name), 0).to(bench.device).eval()
    model = student_embedder(student, name)
    evaluate_model(model, data, 128)
    started = bench.wait()
    evaluate_model(model, data, 128)
    return {"images_per_s": round(len(source) / (bench.wait() - started), 1)}

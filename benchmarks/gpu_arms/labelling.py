"""A teacher alone, labelling with it, and evaluation."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_arms.bench import Bench, flops_of, rendering, time_of, utilised
from benchmarks.gpu_arms.synthetic import Synthetic


class Labeller:
    """The teacher of all labelling parts, loaded for the first of them."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._teacher: Any = None

    @property
    def teacher(self) -> Any:
        """At random weights, on the device."""
        from teachers.load import load_teacher

        if self._teacher is None:
            made = load_teacher(self._bench.sizes.teacher, random_weights=True, seed=0)
            self._teacher = made.to(self._bench.device)
        return self._teacher


def labelling_part(
    bench: Bench, labeller: Labeller, source: Synthetic, precision: str, folder: Path, workers: tuple[int, ...]
) -> dict[str, Any]:
    """Views a second of the teacher alone on pixels that lie on the device, and of labelling with it: decoding, rendering, captions,
    processes' start, storing and all.

    Args:
        folder: gets the set of the first of `workers`; those of others lie beside it.
        workers: processes that decode, 0 = threads of this one.
    """
    from distill.core.errors import DistillError
    from reinforced_data.labelling.encode import arithmetic
    from reinforced_data.labelling.reinforce import reinforce
    from reinforced_data.labelling.settings import ReinforceSettings

    teacher, views = labeller.teacher, bench.sizes.views
    size = min(128, len(source))
    side = teacher.spec.image_size
    pixels = torch.rand(size, 3, side, side, device=bench.device)
    with torch.inference_mode(), arithmetic(teacher, precision):  # type: ignore[arg-type]
        bare = size / time_of(bench, lambda: teacher.encode_image(pixels), 10 if bench.device == "cuda" else 1)
    flops = flops_of(lambda: teacher.encode_image(pixels[:2])) / 2
    found = {
        "batch": size,
        "rendering": rendering(),
        "bare_views_per_s": round(bare, 1),
        **utilised(bench, bare, flops),
    }
    many = Synthetic(source.samples, max(len(source), int(bare * bench.sizes.label_s / views)))
    settings = ReinforceSettings.model_validate({
        "views_per_image": views, "batch_size": size, "shard_size": 512, "teacher_precision": precision,
        "rendering": rendering(),
    })  # fmt: skip
    found["images"] = len(many)
    for count in workers:
        started = bench.wait()
        place = folder if count == workers[0] else folder.with_name(f"{folder.name}-{count}")
        try:
            reinforce(many, [teacher], place, settings, workers=count)
        except DistillError as error:  # random weights may be rounded worse than trained ones
            return {**found, "labelling": f"refused: {error}"}
        labelled = len(many) * views / (bench.wait() - started)
        by = f"_by_{count}_processes" if count else "_by_threads"
        found |= {f"labelled_views_per_s{by}": round(labelled, 1), f"share_of_bare{by}": round(labelled / bare, 3)}
    return {**found, "peak_gb": bench.peak_gb()}


def labelling_parts(bench: Bench, source: Synthetic, folder: Path) -> None:
    """One part per precision, what is asked for first; processes decode where there are cores for them, and threads as well once."""
    labeller = Labeller(bench)
    for precision in ("bf16", "no", "fp16") if bench.device == "cuda" else ("bf16", "no"):  # fp16 crawls on CPUs
        workers = (bench.sizes.workers, 0) if precision == "bf16" else (bench.sizes.workers,)
        measure = partial(
            labelling_part, bench, labeller, source, precision, folder / precision, tuple(dict.fromkeys(workers))
        )
        bench.part(f"labelling {bench.sizes.teacher}, {precision}", measure, 90)


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

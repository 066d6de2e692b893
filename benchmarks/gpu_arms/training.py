"""Samples a second of the training loop: on one batch over and over, and fed from a stored set."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_arms.bench import Bench, flops_of, utilised
from benchmarks.gpu_arms.synthetic import WORDS
from distill.core.errors import DeviceMemoryError
from reinforced_data.sample import Batch


def step_part(bench: Bench, name: str, precision: str, compiled: bool) -> dict[str, Any]:
    """Samples a second of the training loop on one batch over and over, which waits for nothing but the steps themselves."""
    for size in bench.sizes.batches:
        found = _steps_that_fit(bench, name, precision, compiled, size)
        if found is not None:
            return found
        bench.free()
    return {"failed": f"not even a batch of {bench.sizes.batches[-1]} fits"}


def _steps_that_fit(bench: Bench, name: str, precision: str, compiled: bool, size: int) -> dict[str, Any] | None:
    """None where the batch does not fit the device."""
    try:
        return _steps(bench, name, precision, compiled, size)
    except (torch.OutOfMemoryError, DeviceMemoryError):
        return None


def _steps(bench: Bench, name: str, precision: str, compiled: bool, size: int) -> dict[str, Any]:
    from distill.core.clip.channels_last import channels_last
    from distill.learning.loop.feed import pair_arguments

    task, student = _task(name)
    batch = _batch(student, size)
    batch.tokens = student.tokenize(batch.texts)
    batch = batch.pin_memory() if bench.device == "cuda" else batch  # as the loader's thread does
    arguments = pair_arguments(student.tokenize)
    flops = _flops(bench, task, student)

    def feed(first: int, last: int) -> Iterator[Batch]:
        return (batch for _ in range(first, last))

    with channels_last(student.clip.visual):  # as every training has it
        rows = _fitted(bench, task, arguments, precision, feed, bench.sizes.steps, compiled)
    return {"batch": size, **rows, **utilised(bench, rows["samples_per_s"], flops), "peak_gb": bench.peak_gb()}


def _task(name: str) -> tuple[Any, Any]:
    """A student of full size under the default objective against one teacher of width 768, and what trains it."""
    from distill.learning.objective import Objective
    from distill.learning.task import DistillTask
    from students.spec import STUDENTS
    from students.student import build_student
    from teachers.spec import TeacherFacts

    student = build_student(STUDENTS.get(name), 0)
    facts = {"teacher": TeacherFacts("teacher", 768, 100.0, 0.0, "softmax")}
    return DistillTask(
        student, Objective("small-batch", int(student.spec.model_cfg["embed_dim"]), facts), facts
    ), student


def _batch(student: Any, size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    side = student.image_size
    texts = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(10)) for i in range(size)]
    embeds = {
        kind: {"teacher": torch.nn.functional.normalize(torch.randn(size, 768, generator=generator), dim=1)}
        for kind in ("image", "text")
    }
    images = torch.randint(0, 256, (size, side, side, 3), generator=generator, dtype=torch.uint8).permute(0, 3, 1, 2)
    keys = [str(i) for i in range(size)]
    return Batch(images, texts, embeds["image"], embeds["text"], keys, torch.arange(size))


def _flops(bench: Bench, task: Any, student: Any) -> float:
    """FLOPs of a step per sample, forward and backward, of the operations that torch counts."""
    from distill.learning.loop.feed import pair_arguments

    few = 4
    task.to(bench.device).train()
    inputs = pair_arguments(student.tokenize)(_batch(student, few), torch.device(bench.device))
    counted = flops_of(lambda: task(*inputs)["loss"].backward())
    task.zero_grad(set_to_none=True)
    return counted / few


def _fitted(
    bench: Bench, task: Any, arguments: Any, precision: str, feed: Callable[[int, int], Iterator[Batch]], steps: int,
    compiled: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The loop's own figures over the second half of its steps."""
    from accelerate.state import AcceleratorState

    from distill.learning.fit import fit
    from distill.learning.settings import CheckpointSettings, OptimSettings

    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # a process is meant to have one precision; here each part has its own

    tf32 = precision == "tf32"  # of float32's products; with bf16 as users have it
    device = "auto" if bench.device == "cuda" else "cpu"
    optim = OptimSettings(
        steps=steps,
        log_every=max(1, steps // 6),
        device=device,
        compile=compiled,
        precision="no" if tf32 else precision,  # type: ignore[arg-type]
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metrics.jsonl"
        never = CheckpointSettings(checkpoint_every=10 * steps)
        fit(task, feed, arguments, Path(folder) / "checkpoints", file, optim=optim, checkpointing=never, seed=0)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    used = rows[len(rows) // 2 :]
    speeds, waits = ([row[key] for row in used] for key in ("samples_per_s", "data_wait_share"))
    return {
        "samples_per_s": round(statistics.median(speeds), 1),
        "samples_per_s_range": [round(min(speeds), 1), round(max(speeds), 1)],
        "data_wait_share": round(statistics.mean(waits), 4),
    }


def store_part(bench: Bench, name: str, folder: Path) -> dict[str, Any]:  # `folder`: whose folders are sets
    """Samples a second of the loader alone, and of a training that it feeds.

    Workers have batches in hand when the first one is taken, so as many steps are taken as make several times those.
    """
    from distill.core.clip.channels_last import channels_last
    from distill.learning.loop.feed import pair_arguments
    from distill.learning.objective import Objective
    from distill.learning.task import DistillTask
    from reinforced_data.store.names import MANIFEST_FILE
    from reinforced_data.training.loader import AHEAD, batches
    from reinforced_data.training.pairs import StoredPairs
    from students.spec import STUDENTS
    from students.student import build_student

    student = build_student(STUDENTS.get(name), 0)
    stored = next((file.parent for file in sorted(folder.glob(f"*/{MANIFEST_FILE}"))), None)
    if stored is None:
        return {"not measured": "no set was labelled"}
    pairs = StoredPairs(stored, student.image_size)
    size = min(256, len(pairs) // 2)
    steps = max(bench.sizes.steps, 6 * (AHEAD + 1) * bench.sizes.workers)

    def feed(first: int, last: int) -> Iterator[Batch]:
        return batches(
            pairs, batch_size=size, seed=0, first_step=first, last_step=last, workers=bench.sizes.workers,
            tokenize=student.remembered_tokens(), pin_memory=bench.device == "cuda",
        )  # fmt: skip

    drawn = feed(0, steps)
    for _ in range(steps // 3):
        next(drawn)
    started = time.perf_counter()
    rest = sum(len(batch.keys) for batch in drawn)
    alone = rest / (time.perf_counter() - started)
    facts = pairs.teacher_facts
    task = DistillTask(student, Objective("small-batch", int(student.spec.model_cfg["embed_dim"]), facts), facts)
    with channels_last(student.clip.visual):
        rows = _fitted(bench, task, pair_arguments(student.tokenize), "bf16", feed, steps)
    return {"batch": size, "workers": bench.sizes.workers, "loader_samples_per_s": round(alone, 1), **rows}

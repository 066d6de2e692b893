"""Every figure of ours that needs a GPU, by one call of at most 8 minutes: training steps, labelling, the store, evaluation, memory.

    python -m benchmarks.gpu --out OUT            # on the GPU that is here
    python -m benchmarks.gpu --out OUT --smoke    # on a CPU, at toy sizes: that every part runs; its figures say nothing

Images are synthetic JPEGs, weights random ones of full size, which changes no time. OUT/gpu.json has every figure as soon as it is taken, OUT/gpu.md the
tables. A part that fails or that no time is left for says so in its place, and the others go on. FLOPs are counted by torch on the operations that ran;
the roofline is the bf16 matrix product measured here, in the same call. It needs torch >= 2.11, torchvision, timm, accelerate, safetensors, pyarrow, Pillow
and psutil; on a machine that has no more, carry these as wheels: open_clip_torch ftfy wcwidth pydantic pydantic_core annotated_types typing_inspection
typing_extensions.
"""

import argparse
import datetime
import importlib.util
import io
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from distill.core import atomic
from reinforced_data.sample import Batch, Caption, RawSample

CARRIED = ("open_clip", "ftfy", "pydantic")  # what a machine for GPU work may lack
WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "small",
    "old",
    "red",
    "dog",
    "near",
    "that",
    "wooden",
    "house",
    "under",
    "tall",
    "trees",
    "on",
    "some",
    "quiet",
    "street",
    "in",
    "winter",
]


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        students: to train. batches: sizes of a batch that are tried, the largest first. steps: of a training, the first half not counted.
        teacher: labels. images: synthetic ones of `pixels` (width, height). views: of each. matrix: side of the roofline's product.
        workers: data loading processes.
    """

    students: tuple[str, ...] = ("mci2", "mci0", "vit-b-16")
    batches: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    steps: int = 16
    teacher: str = "datacomp-vitl14"
    images: int = 1024
    pixels: tuple[int, int] = (500, 375)
    views: int = 2
    matrix: int = 8192
    workers: int = 12


SMOKE = Sizes(("nano",), (8,), 4, "rendered", 12, (80, 60), 2, 256, 0)


@dataclass
class Bench:
    """One call: where it runs, what it has found, and how long it may go on.

    Attributes:
        device: "cuda" or "cpu".
        out: gets gpu.json and gpu.md.
        ends: of time.monotonic, after which no part is begun.
        found: part -> its figures.
    """

    device: str
    sizes: Sizes
    out: Path
    ends: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def part(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Take one part's figures, and keep them; what goes wrong is kept in their place."""
        if time.monotonic() > self.ends:
            self.found[name] = {"not measured": "no time was left"}
        else:
            started = time.monotonic()
            try:
                self.found[name] = measure()
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                self.found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            self.found[name]["took_s"] = round(time.monotonic() - started, 1)
        self.free()
        atomic.write_json(self.out / "gpu.json", self.found)
        print(f"{name}: {json.dumps(self.found[name])}", flush=True)

    def free(self) -> None:
        """Let go of the device's memory, and begin to count its peak anew."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> float:
        """The clock, when the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak_gb(self) -> float | None:
        """The most memory that tensors have taken since `free`."""
        return round(torch.cuda.max_memory_allocated() / 1e9, 2) if self.device == "cuda" else None

    def share(self, flops_per_s: float) -> float | None:
        """Of the bf16 roofline."""
        roof = self.found.get("device", {}).get("bf16_tflops")
        return round(flops_per_s / 1e12 / roof, 3) if roof else None


def device_part(bench: Bench) -> dict[str, Any]:
    """What the machine is, its bf16 matrix products and its memory's speed."""
    side = bench.sizes.matrix
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = _time_of(bench, lambda: a @ b, 10)
    big = torch.empty(4 * side * side, device=bench.device)
    other = torch.empty_like(big)
    copy = _time_of(bench, lambda: other.copy_(big), 10)
    facts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "name": "CPU"}
    if bench.device == "cuda":
        own = torch.cuda.get_device_properties(0)
        facts |= {"name": own.name, "memory_gb": round(own.total_memory / 1e9, 1)}
    return {
        **facts,
        "bf16_tflops": round(2 * side**3 / seconds / 1e12, 3),
        "copy_tb_per_s": round(2 * big.numel() * 4 / copy / 1e12, 3),
    }


def _time_of(bench: Bench, call: Callable[[], Any], times: int) -> float:
    for _ in range(3):
        call()
    started = bench.wait()
    for _ in range(times):
        call()
    return (bench.wait() - started) / times


def synthetic(count: int, pixels: tuple[int, int]) -> list[RawSample]:
    """Smooth noise as JPEGs of quality 90, each with two captions of some ten words."""

    def one(number: int) -> RawSample:
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        file = io.BytesIO()
        small.resize(pixels, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        texts = (" ".join(rng.choice(WORDS, int(rng.integers(6, 16)))) for _ in range(2))
        return RawSample(f"{number:06}", file.getvalue(), tuple(Caption(text, "real") for text in texts))

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, range(count)))


class Synthetic:
    """The synthetic images as a source of data."""

    name, licence, fingerprint = "synthetic", "CC0-1.0", "synthetic"

    def __init__(self, samples: list[RawSample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> RawSample:
        return self.samples[index]

    def zero_shot(self) -> None:
        """No classes."""


def step_part(bench: Bench, name: str, precision: str, compiled: bool) -> dict[str, Any]:
    """Samples a second of the training loop on one batch over and over, which waits for nothing but the steps themselves."""
    for size in bench.sizes.batches:
        try:
            return _steps(bench, name, precision, compiled, size)
        except torch.cuda.OutOfMemoryError:
            bench.free()
    return {"failed": f"not even a batch of {bench.sizes.batches[-1]} fits"}


def _steps(bench: Bench, name: str, precision: str, compiled: bool, size: int) -> dict[str, Any]:
    from distill.learning.task import pair_arguments

    task, student = _task(name)
    batch = _batch(student, size)
    tokens = student.tokenize(batch.texts)
    arguments = pair_arguments(lambda texts: tokens[: len(texts)])
    flops = _flops(bench, task, student) * size
    if compiled:
        for tower in (student.clip.visual, getattr(student.clip, "text", None) or student.clip.transformer):
            tower.compile()
    rows = _fitted(bench, task, arguments, precision, size, lambda first, last: (batch for _ in range(first, last)))
    return {"batch": size, **rows, **_utilised(bench, rows["samples_per_s"], flops / size), "peak_gb": bench.peak_gb()}


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
    from distill.learning.task import pair_arguments

    few = 4
    task.to(bench.device).train()
    inputs = pair_arguments(student.tokenize)(_batch(student, few), torch.device(bench.device))
    with FlopCounterMode(display=False) as counted:
        task(*inputs)["loss"].backward()
    task.zero_grad(set_to_none=True)
    return counted.get_total_flops() / few


def _fitted(
    bench: Bench, task: Any, arguments: Any, precision: str, size: int, feed: Callable[[int, int], Iterator[Batch]]
) -> dict[str, Any]:
    """The loop's own figures over the second half of its steps."""
    from accelerate.state import AcceleratorState

    from distill.learning.fit import fit
    from distill.learning.settings import CheckpointSettings, OptimSettings

    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # a process is meant to have one precision; here each part has its own

    steps, every = bench.sizes.steps, max(1, bench.sizes.steps // 8)
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    device = "auto" if bench.device == "cuda" else "cpu"
    optim = OptimSettings(
        steps=steps,
        log_every=every,
        device=device,
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


def _utilised(bench: Bench, per_s: float, flops: float) -> dict[str, Any]:
    """flops: of one."""
    return {
        "gflop_each": round(flops / 1e9, 2),
        "tflops": round(per_s * flops / 1e12, 3),
        "share_of_bf16_roofline": bench.share(per_s * flops),
    }


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
    bare = size / _time_of(bench, lambda: encode_images(teacher, views, precision), 3)  # type: ignore[arg-type]
    found = {"batch": size, "bare_views_per_s": round(bare, 1), **_utilised(bench, bare, counted.get_total_flops() / 2)}
    settings = ReinforceSettings.model_validate(
        {"views_per_image": bench.sizes.views, "batch_size": size, "shard_size": 256, "teacher_precision": precision}
    )
    started = bench.wait()
    try:
        reinforce(source, [teacher], folder, settings)
    except DistillError as error:  # random weights may be rounded worse than trained ones
        return {**found, "labelling": f"refused: {error}"}
    labelled = len(source) * bench.sizes.views / (bench.wait() - started)
    return {
        **found, "labelled_views_per_s": round(labelled, 1), "share_of_bare": round(labelled / bare, 3), "peak_gb": bench.peak_gb(),
    }  # fmt: skip


def store_part(bench: Bench, name: str, folder: Path) -> dict[str, Any]:
    """Samples a second of the loader alone, and of a training that it feeds."""
    from distill.learning.objective import Objective
    from distill.learning.task import DistillTask, pair_arguments
    from reinforced_data.training.loader import batches
    from reinforced_data.training.pairs import StoredPairs
    from students.spec import STUDENTS
    from students.student import build_student

    student = build_student(STUDENTS.get(name), 0)
    pairs = StoredPairs(folder, student.image_size)
    size = min(256, len(pairs) // 2)

    def feed(first: int, last: int) -> Iterator[Batch]:
        return batches(
            pairs, batch_size=size, seed=0, first_step=first, last_step=last, workers=bench.sizes.workers
        )  # fmt: skip

    drawn = feed(0, bench.sizes.steps)
    for _ in range(bench.sizes.steps // 2):
        next(drawn)
    started = time.perf_counter()
    rest = sum(len(batch.keys) for batch in drawn)
    alone = rest / (time.perf_counter() - started)
    facts = pairs.teacher_facts
    task = DistillTask(student, Objective("small-batch", int(student.spec.model_cfg["embed_dim"]), facts), facts)
    rows = _fitted(bench, task, pair_arguments(student.tokenize), "bf16", size, feed)
    return {"batch": size, "workers": bench.sizes.workers, "loader_samples_per_s": round(alone, 1), **rows}


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


def markdown(found: dict[str, dict[str, Any]], smoke: bool) -> str:
    """One table of all parts."""
    name = found.get("device", {}).get("name", "?")
    note = " Toy sizes on a CPU: not measured on a GPU." if smoke else ""
    lines = [f"{name}, torch {torch.__version__}, {datetime.date.today()}, `python -m benchmarks.gpu`.{note}", ""]
    lines += ["| part | figures |", "|---|---|"]
    for part, figures in found.items():
        said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in figures.items() if key != "took_s")
        lines.append(f"| {part} | {said} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which no part is begun")
    given = parser.parse_args(argv)
    if not given.smoke and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here that torch sees. --smoke runs every part at toy sizes on the CPU.")
    if missing := [name for name in CARRIED if importlib.util.find_spec(name) is None]:
        raise SystemExit(
            f"{', '.join(missing)} cannot be imported here. Install or carry the wheels that {__name__} --help names."
        )
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = SMOKE if given.smoke else Sizes()
    bench = Bench("cpu" if given.smoke else "cuda", sizes, given.out, time.monotonic() + 60 * given.minutes)
    bench.part("device", lambda: device_part(bench))
    for name in sizes.students:
        bench.part(f"step {name}, bf16", lambda name=name: step_part(bench, name, "bf16", False))
    source = Synthetic(synthetic(sizes.images, sizes.pixels))
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("no", "bf16", "fp16"):
            place = Path(folder) / precision
            bench.part(
                f"labelling {sizes.teacher}, {precision}",
                lambda p=precision, f=place: labelling_part(bench, source, p, f),
            )
        bench.part(
            f"from the store {sizes.students[-1]}", lambda: store_part(bench, sizes.students[-1], Path(folder) / "no")
        )
    bench.part(f"evaluation {sizes.students[0]}", lambda: evaluation_part(bench, sizes.students[0], source))
    for name in sizes.students[::-1]:
        bench.part(f"step {name}, tf32", lambda name=name: step_part(bench, name, "tf32", False))
    for name in () if given.smoke else sizes.students[::-1]:  # last: compiling takes long
        bench.part(f"step {name}, bf16 compiled", lambda name=name: step_part(bench, name, "bf16", True))
    text = markdown(bench.found, given.smoke)
    (given.out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

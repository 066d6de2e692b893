"""`Bench`: one call of `benchmarks.gpu`, its sizes, its clock and what it has found; and what the device is."""

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distill.core import atomic


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        students: to train. batches: sizes of a batch that are tried, the largest first. steps: of a training, the first half not counted.
        teacher: labels. images: synthetic ones of `pixels` (width, height). views: of each. matrix: side of the roofline's product.
        workers: data loading processes.
        full_teacher: the student that is trained as a teacher, for full_steps of full_batch.
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
    full_teacher: str = "vit-b-16"
    full_steps: int = 300
    full_batch: int = 256


SMOKE = Sizes(("nano",), (8,), 4, "rendered", 12, (80, 60), 2, 256, 0, "nano", 4, 4)


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


def rendering() -> str:
    """How views become pixels here: the default where its decoder is, else Pillow's."""
    try:
        import simplejpeg  # noqa: F401
    except ImportError:
        return "pillow"
    return "turbo"


def device_part(bench: Bench) -> dict[str, Any]:
    """What the machine is, its bf16 matrix products and its memory's speed."""
    side = bench.sizes.matrix
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = time_of(bench, lambda: a @ b, 10)
    big = torch.empty(4 * side * side, device=bench.device)
    other = torch.empty_like(big)
    copy = time_of(bench, lambda: other.copy_(big), 10)
    facts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "name": "CPU"}
    if bench.device == "cuda":
        own = torch.cuda.get_device_properties(0)
        facts |= {"name": own.name, "memory_gb": round(own.total_memory / 1e9, 1)}
    return {
        **facts,
        "bf16_tflops": round(2 * side**3 / seconds / 1e12, 3),
        "copy_tb_per_s": round(2 * big.numel() * 4 / copy / 1e12, 3),
    }


def time_of(bench: Bench, call: Callable[[], Any], times: int) -> float:
    for _ in range(3):
        call()
    started = bench.wait()
    for _ in range(times):
        call()
    return (bench.wait() - started) / times


def utilised(bench: Bench, per_s: float, flops: float) -> dict[str, Any]:
    """flops: of one."""
    return {
        "gflop_each": round(flops / 1e9, 2),
        "tflops": round(per_s * flops / 1e12, 3),
        "share_of_bf16_roofline": bench.share(per_s * flops),
    }

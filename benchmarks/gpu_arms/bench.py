"""`Bench`: one call of `benchmarks.gpu`, its sizes, its clock and what it has found; and what the device is."""

import contextlib
import datetime
import gc
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distill.core import atomic


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        students: to train. batches: sizes of a batch that are tried, the largest first. steps: of a training, the first half not counted.
        teacher: labels. images: synthetic ones of `pixels` (width, height), that come again under other names where more are needed.
        views: of each. matrix: side of the roofline's product. workers: data loading processes.
        label_s: seconds that labelling would take at the speed of the teacher alone.
        full_teacher: the student that is trained as a teacher, for full_steps of full_batch.
    """

    students: tuple[str, ...] = ("mci2", "mci0", "vit-b-16")
    batches: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    steps: int = 24
    teacher: str = "datacomp-vitl14"
    images: int = 1024
    pixels: tuple[int, int] = (500, 375)
    views: int = 2
    matrix: int = 8192
    workers: int = 12
    label_s: float = 6.0
    full_teacher: str = "vit-b-16"
    full_steps: int = 300
    full_batch: int = 256


SMOKE = Sizes(("nano",), (8,), 4, "rendered", 12, (80, 60), 2, 256, 1, 0.0, "nano", 4, 4)


class TooLong(Exception):
    """A part had no more time."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TooLong inside when so many seconds are over, as soon as Python comes to run again."""

    def ring(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Bench:
    """One call: where it runs, what it has found, and how long it may go on.

    Attributes:
        device: "cuda" or "cpu".
        out: gets gpu.json and gpu.md, both as they are after every part.
        ends: of time.monotonic, when everything is over.
        found: part -> its figures.
    """

    device: str
    sizes: Sizes
    out: Path
    ends: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def part(self, name: str, measure: Callable[[], dict[str, Any]], most_s: float = 60.0) -> None:
        """Take one part's figures, in `most_s` seconds and what is left of all time at most, and keep them; what goes wrong is
        kept in their place."""
        started = time.monotonic()
        left = min(most_s, self.ends - started)
        self.found[name] = {}
        if left <= 0:
            self.found[name] = {"not measured": "no time was left"}
        else:
            try:
                with within(left):
                    self.found[name] = measure()
            except TooLong:
                self.found[name] = {"not measured": f"stopped after {left:.0f} s"}
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                self.found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            self.found[name]["took_s"] = round(time.monotonic() - started, 1)
        self.free()
        atomic.write_json(self.out / "gpu.json", self.found)
        (self.out / "gpu.md").write_text(self.markdown(), encoding="utf-8")
        print(f"{name}: {json.dumps(self.found[name])}", flush=True)

    def markdown(self) -> str:
        """One table of all parts."""
        name = self.found.get("device", {}).get("name", "?")
        note = " Toy sizes on a CPU: not measured on a GPU." if self.device == "cpu" else ""
        lines = [f"{name}, torch {torch.__version__}, {datetime.date.today()}, `python -m benchmarks.gpu`.{note}", ""]
        lines += ["| part | figures |", "|---|---|"]
        for part, figures in self.found.items():
            said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in figures.items() if key != "took_s")
            lines.append(f"| {part} | {said} |")
        return "\n".join(lines) + "\n"

    def free(self) -> None:
        """Let go of the device's memory, and begin to count its peak anew. Not to be called where an exception is being handled, whose
        frames hold what they held."""
        gc.collect()  # accelerate's models refer to themselves
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
    for _ in range(min(3, times)):
        call()
    started = bench.wait()
    for _ in range(times):
        call()
    return (bench.wait() - started) / times


def flops_of(call: Callable[[], Any]) -> int:
    """Floating point operations of the matrix products and convolutions that a call makes, its gradients included.

    Attention is taken apart into its products first: torch's counter knows neither the fused layer that nn.MultiheadAttention takes
    without gradients (a third of a ViT) nor every kernel of scaled dot products.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counted.get_total_flops())


def utilised(bench: Bench, per_s: float, flops: float) -> dict[str, Any]:
    """flops: of one."""
    return {
        "gflop_each": round(flops / 1e9, 2),
        "tflops": round(per_s * flops / 1e12, 3),
        "share_of_bf16_roofline": bench.share(per_s * flops),
    }

"""The memory of the losses, forward and backward, by the batch: by blocks of rows, and all rows at once.

    python -m benchmarks.loss_memory [--batches 2048 4096 8192 16384] [--width 512] [--objective clipkd] [--measure-up-to 4096]

"counted" is the most that tensors hold at a time, by their sizes; for it tensors without values do (torch's "meta" device), so that no
batch is too large. "measured" is the peak resident memory of a process of its own, less what it held with the embeddings alone, and its
seconds; glibc's allocator gives memory back there at once (MALLOC_MMAP_THRESHOLD_), since what it keeps for later would count too.
Two teachers, one of them of another width.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.learning import blocks
from distill.learning.embeddings import Matches, embeddings
from distill.learning.objective import Objective
from teachers.spec import TeacherFacts
from tests.distill.learning.test_blocks import Live


def losses(batch: int, width: int, objective: str, block: int, device: str) -> Callable[[], Tensor]:
    """What computes the loss and all its gradients, and returns the loss, []."""
    blocks.BLOCK = block
    torch.manual_seed(0)
    known = {"a": TeacherFacts("a", width, 100.0, 0.0, "softmax"), "b": TeacherFacts("b", 768, 100.0, 0.0, "softmax")}

    def unit(columns: int) -> Tensor:
        return F.normalize(torch.randn(batch, columns, device=device), dim=-1)

    objectives = Objective(objective, width, known).to(device)
    image, text = unit(width).requires_grad_(), unit(width).requires_grad_()
    scale, ids = torch.full((), 50.0, device=device).requires_grad_(), torch.arange(batch, device=device)
    student = replace(embeddings(image, text, scale), positives=Matches((ids,), (ids,)))
    teachers = {
        name: embeddings(unit(facts.width), unit(facts.width), torch.full((), 100.0, device=device))
        for name, facts in known.items()
    }

    def run() -> Tensor:
        loss = objectives(student, teachers)["loss"]
        loss.backward()
        return loss

    return run


def counted(batch: int, width: int, objective: str, block: int) -> float:
    """MiB that tensors hold at most."""
    run = losses(batch, width, objective, block, "meta")
    with Live() as live:
        run()
    return live.peak / 2**20


def measure(batch: int, width: int, objective: str, block: int) -> tuple[float, float, float]:
    """MiB, seconds and the loss of one forward and backward pass, in this process."""
    run = losses(batch, width, objective, block, "cpu")
    before, began = _peak_mib(), time.perf_counter()
    loss = run()
    return _peak_mib() - before, time.perf_counter() - began, loss.item()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--measure-up-to", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--objective", default="clipkd")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(*measure(given.one[0], given.width, given.objective, given.one[1]))
        return
    print(
        "| batch | counted, MiB: by blocks | at once | measured, MiB (s): by blocks | at once |\n|---:|---:|---:|---:|---:|"
    )
    more = ["--width", str(given.width), "--objective", given.objective]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    for batch in given.batches:
        sizes = (blocks.BLOCK, 2**62)
        cells = [f"{counted(batch, given.width, given.objective, size):,.0f}" for size in sizes]
        blocks.BLOCK = sizes[0]
        for size in sizes if batch <= given.measure_up_to else ():
            call = [sys.executable, "-m", "benchmarks.loss_memory", "--one", str(batch), str(size), *more]
            words = subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout.split()
            cells.append(f"{float(words[0]):,.0f} ({float(words[1]):.1f})")
        cells += [""] * (4 - len(cells))
        print(f"| {batch:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""The memory and the time of the losses, forward and backward, by the batch: by blocks of rows, and all rows at once.

    python -m benchmarks.loss_memory [--batches 2048 4096 8192 16384] [--plain-up-to 8192] [--width 512] [--objective clipkd]

Each figure is the peak resident memory of a process of its own, less what it held with the embeddings alone. Two teachers, one of
them of another width. Prints a table; `--plain-up-to` spares a machine the quadratic ones: at 16,384 they take some 13 GiB.
"""

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import replace


def measure(batch: int, width: int, objective: str, block: int) -> tuple[float, float, float]:
    """MiB, seconds and the loss of one forward and backward pass, in this process."""
    import torch
    from torch.nn import functional as F

    from distill.learning import blocks
    from distill.learning.embeddings import Matches, embeddings
    from distill.learning.objective import Objective
    from teachers.spec import TeacherFacts

    blocks.BLOCK = block
    torch.manual_seed(0)
    known = {"a": TeacherFacts("a", width, 100.0, 0.0, "softmax"), "b": TeacherFacts("b", 768, 100.0, 0.0, "softmax")}

    def unit(columns: int) -> torch.Tensor:
        return F.normalize(torch.randn(batch, columns), dim=-1)

    objectives = Objective(objective, width, known)
    image, text, scale = unit(width).requires_grad_(), unit(width).requires_grad_(), torch.tensor(50.0)
    ids = torch.arange(batch)
    student = embeddings(image, text, scale.requires_grad_())
    student = replace(student, positives=Matches((ids,), (ids,)))
    teachers = {
        name: embeddings(unit(facts.width), unit(facts.width), torch.tensor(100.0)) for name, facts in known.items()
    }
    before, began = _peak_mib(), time.perf_counter()
    loss = objectives(student, teachers)["loss"]
    loss.backward()
    return _peak_mib() - before, time.perf_counter() - began, loss.item()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--plain-up-to", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--objective", default="clipkd")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(*measure(given.one[0], given.width, given.objective, given.one[1]))
        return
    print("| batch | by blocks, MiB | s | all at once, MiB | s | losses differ by |\n|---|---|---|---|---|---|")
    more = ["--width", str(given.width), "--objective", given.objective]
    for batch in given.batches:
        cells, losses = [], []
        for block in (2**22, 2**62):
            if block > 2**22 and batch > given.plain_up_to:
                cells += ["not run", ""]
                continue
            call = [sys.executable, "-m", "benchmarks.loss_memory", "--one", str(batch), str(block), *more]
            words = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
            cells += [f"{float(words[0]):,.0f}", f"{float(words[1]):.1f}"]
            losses.append(float(words[2]))
        apart = f"{abs(losses[0] - losses[-1]) / abs(losses[0]):.0e}" if len(losses) == 2 else ""
        print(f"| {batch:,} | {' | '.join(cells)} | {apart} |", flush=True)


if __name__ == "__main__":
    main()

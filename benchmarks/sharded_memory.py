"""What each process holds of a model that trains sharded (train.sharding=full): counted by the sizes of its tensors.

    python -m benchmarks.sharded_memory [--students mci2 mobileclip2-l14] [--processes 1 8 64]

Weights, gradients and AdamW's two moments in float32, divided by rows as torch's fully_shard does; and, whole while a step runs, what
no block holds and the two largest blocks (one at work, one on its way) with their gradients. Activations come on top. Models are built
on torch's "meta" device, so that none is too large.
"""

import argparse

import torch

from distill.core.torch_compat import ensure_torchvision
from distill.learning.loop.shards import blocks
from students.spec import STUDENTS

STATES = 4  # float32 numbers kept of each weight: itself, its gradient, and AdamW's two moments
GIB = 2**30


def held(student: torch.nn.Module, processes: int) -> tuple[float, float]:
    """(GiB kept by the process that has most, GiB put together at a time besides) of a student on so many processes."""
    parameters = list(student.parameters())
    if processes == 1:
        return sum(p.numel() for p in parameters) * 4 * STATES / GIB, 0.0
    rows = sum(-(-p.shape[0] // processes) * p[0].numel() if p.ndim else 1 for p in parameters)
    inside = [sum(p.numel() for p in block.parameters()) for block in blocks(student)]
    rest = sum(p.numel() for p in parameters) - sum(inside)
    together = rest + sum(sorted(inside)[-2:])
    return rows * 4 * STATES / GIB, together * 4 * 2 / GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=["mci2", "vit-b-16", "mobileclip2-l14", "coca-vitl14"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 8, 64])
    given = parser.parse_args()
    ensure_torchvision()
    from students.student import build_student

    print(f"| student | parameters, M | {' | '.join(f'of {n}, GiB' for n in given.processes)} |")
    print("|---|---:|" + "---:|" * len(given.processes))
    for name in given.students:
        with torch.device("meta"):
            student = build_student(STUDENTS.get(name), 0)
        found = [held(student, n) for n in given.processes]
        cells = [f"{kept:.2f} + {more:.2f}" if more else f"{kept:.2f}" for kept, more in found]
        print(f"| `{name}` | {sum(p.numel() for p in student.parameters()) / 1e6:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

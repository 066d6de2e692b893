"""XNNPACK files with LayerNorms written out against the same without: pieces, and the ratio of their times on this host.

    python -m benchmarks.layer_norms STUDENT [STUDENT ...]

Both files of a tower are run in one process on one thread, by turns: 15 rounds of 20 calls each. Prints markdown.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from distill.core.torch_compat import ensure_torchvision

ROUNDS, CALLS = 15, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    ensure_torchvision()
    torch.set_num_threads(1)
    from export.targets.executorch_xnnpack import ExecutorchXnnpack
    from export.towers.tower import deployable_towers
    from students.student import load_student

    class Plain(ExecutorchXnnpack):
        def prepared(self, program, tower, calibration):
            return program

    print("| student | tower | pieces, before | now | time, now / before |\n|---|---|---:|---:|---:|")
    for folder in args.students:
        student = load_student(folder)
        size, last = student.image_size, student.clip.token_embedding.num_embeddings - 1
        tokens = torch.ones(1, student.context_length, dtype=torch.int32)
        tokens[0, -1] = last
        for name, module, value in zip(
            ("image", "text"), deployable_towers(student), (torch.rand(1, 3, size, size), tokens), strict=True
        ):
            program = torch.export.export(module, (value,))
            runs, pieces = {}, {}
            with tempfile.TemporaryDirectory() as scratch:
                for kind, target in (("before", Plain()), ("now", ExecutorchXnnpack())):
                    path = Path(scratch) / f"{kind}.pte"
                    pieces[kind] = target.convert(program, name, path).subgraphs
                    runs[kind] = target.load(path, 1)
                ratios = []
                for index in range(ROUNDS):
                    spent = {}
                    for kind in ("before", "now") if index % 2 else ("now", "before"):
                        times = []
                        for call in range(CALLS + 3):
                            start = time.perf_counter()
                            runs[kind](np.asarray(value))
                            if call >= 3:
                                times.append(time.perf_counter() - start)
                        spent[kind] = statistics.median(times)
                    ratios.append(spent["now"] / spent["before"])
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(
                f"| {folder.parent.name}/{folder.name} | {name} | {pieces['before']} | {pieces['now']} | {ratio} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

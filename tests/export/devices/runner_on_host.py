"""Stands in for a phone's executor_runner: the same arguments and log, and the .pte really run, by the runtime of this computer.

Its first argument is a trace to give for times per operation: the runtime's wheel cannot write one.
"""

import shutil
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    options = dict(item.removeprefix("--").split("=", 1) for item in sys.argv[2:])
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(options["model_path"]).load_method("forward")
    assert method is not None
    print(f"I 00:00:00.100000 executorch:executor_runner.cpp:226] Model file {options['model_path']} is loaded.")
    meta = method.metadata.input_tensor_meta(0)
    dtype = {6: np.float32, 3: np.int32}[int(meta.dtype())]
    given = np.frombuffer(Path(options["inputs"]).read_bytes(), dtype).reshape(meta.sizes()).copy()
    print("I 00:00:00.142500 executorch:executor_runner.cpp:297] Method loaded.")
    total, count = 0.0, int(options["num_executions"])
    for index in range(count):
        start = time.perf_counter()
        (output,) = method.execute([torch.from_numpy(given)])
        spent = (time.perf_counter() - start) * 1e3
        total += spent
        print(f"I 00:00:00.150000 executorch:executor_runner.cpp:340] Iteration {index + 1} of {count}: {spent:.6f} ms")
    print(
        f"I 00:00:00.160000 executorch:executor_runner.cpp:345] Model executed successfully {count} time(s) in {total:.6f} ms."
    )
    Path(f"{options['output_file']}-0.bin").write_bytes(output.numpy().tobytes())
    if "etdump_path" in options and Path(sys.argv[1]).exists():
        shutil.copyfile(sys.argv[1], options["etdump_path"])


main()

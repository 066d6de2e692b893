"""Stands in for a phone's executor_runner: the same arguments and log, and the .pte really run, by the runtime of this computer.

Its first argument is a trace to give for times per operation: the runtime's wheel cannot write one. Beside it the answer to a file
and an input is kept, since starting the runtime takes seconds: the protocol calls a runner three times for each.
"""

import hashlib
import shutil
import sys
import time
from pathlib import Path

import numpy as np


def answer(model: Path, given: bytes, count: int, kept: Path) -> tuple[list[float], bytes]:
    """Milliseconds of `count` calls, and the output; of an earlier process where it ran the same file on the same input."""
    name = hashlib.sha256(model.read_bytes() + given).hexdigest()
    file = kept / f"{name}.npz"
    if not file.exists():
        import torch  # loads the libraries that the next needs

        # The library itself: `executorch.runtime` imports the whole compiler before it, which takes two more seconds.
        from executorch.extension.pybindings import _portable_lib

        program = _portable_lib._load_for_executorch(str(model))
        meta = program.method_meta("forward").input_tensor_meta(0)
        dtype = {6: np.float32, 3: np.int32}[int(meta.dtype())]
        tensor = torch.from_numpy(np.frombuffer(given, dtype).reshape(meta.sizes()).copy())
        times = []
        for _ in range(9):
            start = time.perf_counter()
            (output,) = program.run_method("forward", (tensor,))
            times.append((time.perf_counter() - start) * 1e3)
        np.savez(file, times=times, output=output.numpy())
    with np.load(file) as found:
        return [float(found["times"][index % 9]) for index in range(count)], found["output"].tobytes()


def main() -> None:
    options = dict(item.removeprefix("--").split("=", 1) for item in sys.argv[2:])
    count, trace = int(options["num_executions"]), Path(sys.argv[1])
    times, output = answer(Path(options["model_path"]), Path(options["inputs"]).read_bytes(), count, trace.parent)
    print(f"I 00:00:00.100000 executorch:executor_runner.cpp:226] Model file {options['model_path']} is loaded.")
    print("I 00:00:00.142500 executorch:executor_runner.cpp:297] Method loaded.")
    for index, spent in enumerate(times):
        print(f"I 00:00:00.150000 executorch:executor_runner.cpp:340] Iteration {index + 1} of {count}: {spent:.6f} ms")
    print(
        f"I 00:00:00.160000 executorch:executor_runner.cpp:345] Model executed successfully {count} time(s) in {sum(times):.6f} ms."
    )
    Path(f"{options['output_file']}-0.bin").write_bytes(output)
    if "etdump_path" in options and trace.exists():
        shutil.copyfile(trace, options["etdump_path"])


main()

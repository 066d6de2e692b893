"""`python -m export.children.convert JOB.json`: convert a model's towers to one target and check them, in a process of its own.

Converters and runtimes of different targets crash each other when they share a process, print at will and keep
gigabytes; so each gets a process, whose output goes to a log file. Left out: every decision, which export.run takes.

The job: {"target": name of its folder, "options", "folder", "notice", "programs": {tower: .pt2}, "reference": .npz, "calibration":
.npz that is read where the precision learns from it, "result": .json, "threads"}. The result, written to that file:
{tower: {"parity", "operations", "convert_s", "check_s"}, "cpu_s", "peak_mb"}.
"""

import json
import os
import sys
import threading
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from export.app.licence import Notice
from export.artifacts.folder import tower_file
from export.artifacts.record import Tower
from export.target import INPUT_NAMES, Target, get_target
from export.towers.parity import Reference, check_file


def exit_with_parent() -> None:
    """End this process when the other end of its standard input closes: an orphan must not write into a resumed run."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def peak_mb() -> float:
    """Peak resident memory of this process in MB; 0.0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory too, which a child inherits until it starts
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    if sys.platform == "darwin":
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 1)
    return 0.0


def convert_and_check(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job described in the module's docstring and return its result."""
    import torch

    torch.set_num_threads(int(job.get("threads", 1)))
    target = get_target(job["target"]).with_options(job.get("options", {}))
    reference = Reference.load(Path(job["reference"]))
    result: dict[str, Any] = {}
    programs: dict[Tower, str] = job["programs"]
    folder, made = Path(job["folder"]), {}
    for tower, saved in programs.items():
        path = folder / tower_file(tower, target.suffix)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecating its own internals while it loads the program
            program = torch.export.load(saved)
        operations = target.convert(program, tower, path, calibration=_calibration(job, target, tower))
        del program
        made[tower] = operations, time.perf_counter() - start
    target.combine(folder, programs)
    for name, tower in {target.file_of(tower): tower for tower in programs}.items():
        target.sign(folder / name, tower, Notice(**job["notice"]))
    for tower, (operations, seconds) in made.items():
        start = time.perf_counter()
        parity = check_file(target.of(tower), folder / target.file_of(tower), tower, reference)
        checked = time.perf_counter() - start
        print(f"{tower}: converted in {seconds:.1f} s, checked in {checked:.1f} s: {parity}", flush=True)
        result[tower] = {
            "parity": asdict(parity),
            "operations": asdict(operations),
            "convert_s": seconds,
            "check_s": checked,
        }
    return {**result, "cpu_s": time.process_time(), "peak_mb": peak_mb()}


def _calibration(job: dict[str, Any], target: Target, tower: Tower) -> Array | None:
    if not target.precision.calibrated:
        return None
    with np.load(job["calibration"], allow_pickle=False) as arrays:
        return target.form.given(np.asarray(arrays[INPUT_NAMES[tower]]))


def main() -> None:
    """Entry point: the only argument is the path of the job file."""
    exit_with_parent()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = convert_and_check(job)
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    print(f"in all {result['cpu_s']:.1f} s of CPU time, peak memory {result['peak_mb']} MB", flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # some runtimes crash in their own teardown, after the work is done


if __name__ == "__main__":
    main()

"""Median seconds of `distill --help` and `distill list teachers` over 20 runs, interleaved: python benchmarks/cli_latency.py"""

import datetime
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

CALLS = (["--help"], ["list", "teachers"])
RUNS = 20


def main() -> None:
    program = str(Path(sys.executable).with_name("distill"))
    times: dict[str, list[float]] = {" ".join(call): [] for call in CALLS}
    for _ in range(RUNS):
        for call in CALLS:
            started = time.perf_counter()
            subprocess.run([program, *call], check=True, stdout=subprocess.DEVNULL)
            times[" ".join(call)].append(time.perf_counter() - started)
    print(f"{platform.platform()}, {datetime.date.today()}")
    for name, values in times.items():
        print(
            f"distill {name}: median {statistics.median(values):.3f} s, min {min(values):.3f}, max {max(values):.3f} ({RUNS} runs)"
        )


if __name__ == "__main__":
    main()

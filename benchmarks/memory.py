"""Wall time and peak memory (all processes together) of a command: python benchmarks/memory.py distill run --out /tmp/x

Memory is the largest sum of resident sizes of the process and its children, sampled five times a second; shared pages count once per process,
so it is an upper bound.
"""

import datetime
import platform
import subprocess
import sys
import time

import psutil


def resident(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    started, peak = time.perf_counter(), 0
    child = subprocess.Popen(sys.argv[1:])
    watched = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            peak = max(peak, resident(watched))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    status = child.wait()
    seconds = time.perf_counter() - started
    print(
        f"{' '.join(sys.argv[1:])}: exit {status}, {seconds:.1f} s, peak {peak / 1e9:.2f} GB; {platform.platform()}, {datetime.date.today()}",
        file=sys.stderr,
    )
    sys.exit(status)


if __name__ == "__main__":
    main()

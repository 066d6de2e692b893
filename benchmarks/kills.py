"""Kill the default run ten times at random, resume each time, compare hashes with an uninterrupted run.

    python benchmarks/kills.py --out /tmp/kills [--kills 10] [--seed 0] [-- more arguments of distill run]

Each kill falls at a random moment within two tenths of the uninterrupted run's stages after the run has said its first word (a resumed run starts
with imports, which take long on a busy machine, and skips what is finished), so that ten of them are spread over all stages. Prints when and in which stage each kill fell, and whether every hash is equal. Exit status 1 when one differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path


def call(out: Path, more: list[str]) -> list[str]:
    """A call that may also begin the run: with --resume alone it could only go on with one."""
    return [sys.executable, "-m", "distill", "run", "--data", "rendered:train=2048", "--out", str(out), *more]


def log_bytes(out: Path) -> int:
    log = out / "log.txt"
    return log.stat().st_size if log.exists() else 0


def last_line(out: Path) -> str:
    log = out / "log.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    return lines[-1][20:] if lines else "before the run folder"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--spread", type=float, help="seconds over which kills are spread; default: the uninterrupted run's stages"
    )
    parser.add_argument("more", nargs="*")
    given = parser.parse_args()
    whole, killed = given.out / "whole", given.out / "killed"
    started = time.perf_counter()
    if not (whole / "hashes.json").exists():
        subprocess.run(call(whole, ["--resume", *given.more]), check=True)
    seconds = time.perf_counter() - started
    if (whole / "seconds.json").exists():
        seconds = max(60.0, sum(json.loads((whole / "seconds.json").read_text()).values()))
    seconds = given.spread or seconds
    rng, done = random.Random(given.seed), 0
    while done < given.kills:
        process = subprocess.Popen(
            call(killed, ["--resume", *given.more]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        before, wait = log_bytes(killed), rng.uniform(0, 2.2 * seconds / given.kills)
        while log_bytes(killed) == before and process.poll() is None:
            time.sleep(0.02)
        try:
            process.wait(wait)
            print(f"the run ended before kill {done + 1}; {done} kills in all")
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            print(f"kill {done}, {wait:.1f} s after the first word; last said: {last_line(killed)}", flush=True)
    subprocess.run(call(killed, ["--resume", *given.more]), check=True, stdout=subprocess.DEVNULL)
    a, b = (json.loads((folder / "hashes.json").read_text()) for folder in (whole, killed))
    different = sorted(name for name in {*a, *b} if a.get(name) != b.get(name))
    print(f"{done} kills; {len(a)} hashes, {len(different)} differ {different}")
    sys.exit(1 if different or done < given.kills else 0)


if __name__ == "__main__":
    main()

"""Kill real labelling processes at random times, resume, compare with an uninterrupted set byte for byte.

    python benchmarks/kills_reinforce.py --out /tmp/kills [--kills 40] [--processes 1 2 4] [--images 480]

`accelerate launch ... -m distill reinforce` of rendered scenes with two teachers of different input size and normalisation (the embedded one, and a random
`nano` with ImageNet's mean and std) and a captioner (a Python function). For every number of processes, SIGKILL goes to the whole group or, every other
time, to one labelling process alone (its launcher then ends the others): one kill in four at a random time of the start, the others at a random moment
after a random number (0 to 3) of new shards has appeared, so that most fall into labelling and one set sees many. Each kill is followed by `--resume`, with another
number of processes every fifth time. In the end every file of the set must have the bytes of the uninterrupted one, and its keys must be the source's. Exit
status 1 when not.
"""

import argparse
import datetime
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from distill.core.atomic import sha256_file
from distill.models import student_spec
from distill.recipe import StudentRecipe
from reinforced_data.source import open_source
from reinforced_data.store.reader import ReinforcedData
from students.student import build_student

CAPTIONER = """
def caption(images, seeds):
    return [[f"mean colour {image.mean(axis=(0, 1)).round(1)}", f"seed ends in {seed % 1000}"] for image, seed in zip(images, seeds)]
"""


def second_teacher(folder: Path) -> Path:
    """A full open_clip folder with random weights, 40 pixels, ImageNet's normalisation."""
    if not folder.exists():
        build_student(student_spec(StudentRecipe(name="nano", image_size=40)), 7).save(folder, {"licence": "CC0-1.0"})
        file = folder / "open_clip_config.json"
        config = json.loads(file.read_text())
        config["preprocess_cfg"] |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        file.write_text(json.dumps(config))
    return folder


def call(out: Path, processes: int, work: Path, images: int) -> list[str]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    if processes == 1:
        launcher = [sys.executable]
    return [
        *launcher, "-m", "distill", "reinforce", "--teacher", "rendered", "--teacher", str(second_teacher(work / "second")), "--captioner",
        "python:kill_captioner:caption", "--data", f"rendered:train={images},eval=2", "--out", str(out), "--resume", "--set", "reinforce.shard_size=16",
        "--set", "reinforce.batch_size=16", "--set", "reinforce.verify=0", "--set", "reinforce.captioning.captions=2",
    ]  # fmt: skip


def start(out: Path, processes: int, work: Path, images: int) -> subprocess.Popen:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{work}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    with open(work / "log", "ab") as log:
        return subprocess.Popen(
            call(out, processes, work, images),
            start_new_session=True,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def end(process: subprocess.Popen, alone: bool, rng: random.Random) -> str:
    children = [
        child for child in psutil.Process(process.pid).children(recursive=True) if "reinforce" in child.cmdline()
    ]
    if alone and children:
        victim = rng.choice(children)
        victim.kill()
        process.wait()  # the launcher ends the others
        return f"one of {len(children)}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children, 30)  # dead ones that nobody has buried yet count as dead
    return "all"


def shards(out: Path) -> int:
    return len(list((out / "reinforced").glob("shard-*.arrow")))


def lives_until(process: subprocess.Popen, out: Path, rng: random.Random, seconds: float, total: int) -> bool:
    """Wait for a random moment of the run's work; whether it still runs then. `seconds`: an uninterrupted run, `total`: its shards."""
    early = rng.random() < 0.25
    goal = min(total, shards(out) + rng.randint(0, 3))
    deadline = time.monotonic() + rng.uniform(0.1, 0.6 * seconds) if early else None
    began = {file.name for file in (out / "reinforced").glob("*")} if out.exists() else set()
    while process.poll() is None:
        if deadline is not None and time.monotonic() >= deadline:
            break
        changed = out.exists() and bool({file.name for file in (out / "reinforced").glob("*")} - began)
        if deadline is None and shards(out) >= goal and changed:  # it labels, and the shards asked for are there
            deadline = time.monotonic() + rng.uniform(0, 2 * seconds / total)
        time.sleep(0.01)
    return process.poll() is None


def hashes(out: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted((out / "reinforced").iterdir())}


def kill_often(out: Path, processes: int, kills: int, seconds: float, work: Path, images: int) -> bool:
    rng, done, fell, finished, total = random.Random(processes), 0, [], 1, shards(work / "whole")
    while done < kills:
        now = processes if done % 5 else rng.choice((1, 2, 4))
        process = start(out, now, work, images)
        if lives_until(process, out, rng, seconds, total):
            how = end(process, done % 2 == 1, rng)
            done += 1
            fell.append(shards(out))
            print(f"  kill {done}: {how}, {fell[-1]} shards there", flush=True)
        else:
            if process.returncode or not (out / "reinforced" / "manifest.json").exists():
                sys.exit(f"the run ended with {process.returncode}; see {work / 'log'}")
            same = hashes(out) == hashes(work / "whole")
            print(
                f"  finished before kill {done + 1}: {'same bytes' if same else 'OTHER BYTES'}; begun anew", flush=True
            )
            if not same:
                return False
            finished += 1
            subprocess.run(["rm", "-r", str(out)], check=True)
    process = start(out, processes, work, images)
    if process.wait():
        sys.exit(f"the last run ended with {process.returncode}; see {work / 'log'}")
    data, source = ReinforcedData(out / "reinforced"), open_source(f"rendered:train={images},eval=2", "train")
    whole = [data.key(index) for index in range(len(data))] == [source[index].key for index in range(len(source))]
    same = hashes(out) == hashes(work / "whole")
    print(
        f"{processes} processes: {done} kills, {finished} finished sets, shards there at the kills {min(fell)} to {max(fell)}; bytes {'equal' if same else 'DIFFER'}, keys {'equal' if whole else 'DIFFER'}"
    )
    return same and whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=480)
    given = parser.parse_args()
    work = given.out.resolve()
    work.mkdir(parents=True, exist_ok=True)
    (work / "kill_captioner.py").write_text(CAPTIONER)
    began = time.perf_counter()
    if start(work / "whole", 1, work, given.images).wait():
        sys.exit(f"the uninterrupted run failed; see {work / 'log'}")
    seconds = time.perf_counter() - began
    print(
        f"uninterrupted: {seconds:.0f} s, {len(hashes(work / 'whole'))} files; {platform.machine()}, {datetime.date.today()}",
        flush=True,
    )
    good = [
        kill_often(work / f"killed-{count}", count, given.kills, seconds, work, given.images)
        for count in given.processes
    ]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()

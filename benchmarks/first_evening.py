"""Five jobs of a first evening, by the commands that a new user types, each from an empty folder to its last line.

    python -m benchmarks.first_evening --teacher runs/sail/teacher --photos ../shared/data/flickr8k --classes ../shared/data/caltech101-dev \\
        --out /tmp/evening --docs docs/first_evening.md

Data are made as people have them, out of sets at hand: a shop's photos with a table whose columns nobody foresaw, a folder per class, one Parquet
file. With --docs, what was typed and printed is written there, between machine and date; nothing is edited. tests/distill/verbs/test_first_evening.py runs
the same jobs small. Left out: judging whether the students are any good, which the jobs say themselves.
"""

import argparse
import csv
import datetime
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from distill.core.packages.versions import git_commit

QUICK = "--set train.samples=1280"  # they show the way; benchmarks.few_photos has the figures of 300 photos
MAKING = ("run", "train", "reinforce")  # the verbs that take `Evening.short`
COLUMNS = 100  # of the terminal that the document shows
Pictures = Sequence[bytes]


class Shell(Protocol):
    """Runs a command line in a folder, and keeps what it printed."""

    def run(self, words: Sequence[str], place: Path) -> str:
        """What `distill WORDS` printed. Raises RuntimeError where it did not end well."""
        ...

    def kill(self, words: Sequence[str], place: Path, when: Callable[[], bool]) -> str:
        """What it had printed when it was killed, as soon as `when()`."""
        ...


@dataclass(frozen=True)
class Data:
    """What the jobs are made of.

    Attributes:
        captioned: (picture, caption) pairs: of a shop and of a set.
        classes: name -> pictures.
    """

    captioned: Sequence[tuple[bytes, str]]
    classes: dict[str, Pictures]


@dataclass
class Evening:
    """A folder with people's data in it, and how they call distill there.

    Attributes:
        place: the folder; nothing is there yet.
        words: which teacher and recipe every job names.
        short: what tests add to be done soon.
        said: per job its name and the (command, what it printed) pairs.
    """

    place: Path
    data: Data
    words: tuple[str, ...]
    shell: Shell
    short: tuple[str, ...] = ()
    said: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def call(self, job: str, line: str, **kill: Callable[[], bool]) -> str:
        """Run `distill LINE` for a job; WORDS stands for the words of every job. `kill`: {"when": ...} to kill it then."""
        words = shlex.split(line.replace("WORDS", shlex.join(self.words)))
        short = [*self.short] if "--resume" not in words and words[0] in MAKING else []
        if kill:
            printed = self.shell.kill([*words, *short], self.place, kill["when"])
        else:
            printed = self.shell.run([*words, *short], self.place)
        self.said.setdefault(job, []).append((shlex.join(["distill", *words]), printed))
        return printed


def shop(evening: Evening) -> None:
    """300 product photos, and what they are called in a CSV."""
    folder = evening.place / "shop"
    (folder / "photos").mkdir(parents=True)
    with open(folder / "products-export.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("sku", "photo", "product_name", "price"))
        for number, (picture, caption) in enumerate(evening.data.captioned[:300]):
            (folder / "photos" / f"{number:04}.jpg").write_bytes(picture)
            table.writerow((f"A{number:04}", f"photos/{number:04}.jpg", caption, "9.90"))
    columns = "--image-column photo --caption-column product_name"
    evening.call("shop", f"run WORDS {QUICK} --data shop {columns} --target onnx --out runs/shop")
    evening.call("shop", 'predict runs/shop shop/photos --search "two dogs in the snow" --top 3')


def things(evening: Evening) -> None:
    """A folder per class: a classifier for the phone."""
    for name, pictures in evening.data.classes.items():
        folder = evening.place / "things" / name
        folder.mkdir(parents=True)
        for number, picture in enumerate(pictures):
            (folder / f"{number}.jpg").write_bytes(picture)
    evening.call("things", f"run WORDS {QUICK} --data things --target onnx --out runs/things")
    first = next(iter(evening.data.classes))
    evening.call("things", f"predict runs/things/export/onnx-fp32 things/{first} --top 2")


def parquet(evening: Evening) -> None:
    """A Parquet file: labelled once, trained on, judged and exported by a verb each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures, captions = zip(*evening.data.captioned, strict=True)
    pq.write_table(pa.table({"image": list(pictures), "caption": list(captions)}), evening.place / "set.parquet")
    evening.call("parquet", "reinforce WORDS --data set.parquet --out runs/set")
    evening.call("parquet", f"train WORDS {QUICK} --data runs/set --out runs/student")
    evening.call("parquet", "eval runs/student")
    evening.call("parquet", "export runs/student --target onnx --precision fp16")


def two_students(evening: Evening, other: str) -> None:
    """Two students of the same stored knowledge, side by side. `other`: words that say which the second is."""
    evening.call("two students", f"run WORDS {QUICK} --data runs/set --target onnx --out runs/one")
    evening.call("two students", f"run WORDS {other} {QUICK} --data runs/set --target onnx --out runs/other")
    evening.call("two students", "compare runs/one runs/other")


def closed_laptop(evening: Evening) -> None:
    """A laptop that is closed while it trains."""
    checkpoints = evening.place / "runs" / "closed" / "checkpoints"

    def training() -> bool:
        return any(checkpoints.glob("step-*/state.json"))

    evening.call("closed laptop", f"run WORDS {QUICK} --data runs/set --target onnx --out runs/closed", when=training)
    evening.call("closed laptop", "run runs/closed --resume")


class Terminal:
    """Commands in processes of their own, without a terminal's escape codes."""

    def run(self, words: Sequence[str], place: Path) -> str:
        """As of `Shell`."""
        process = self._start(words, place)
        printed, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"distill {shlex.join(words)} ended with {process.returncode}:\n{printed}")
        return printed

    def kill(self, words: Sequence[str], place: Path, when: Callable[[], bool]) -> str:
        """As of `Shell`."""
        process = self._start(words, place)
        while not when():
            if process.poll() is not None:
                raise RuntimeError(
                    f"distill {shlex.join(words)} ended before it was killed:\n{process.communicate()[0]}"
                )
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        return f"{process.communicate()[0]}Killed\n"

    def _start(self, words: Sequence[str], place: Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "distill", *words], cwd=place, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, "COLUMNS": str(COLUMNS)},
        )  # fmt: skip


def document(evening: Evening, intro: str) -> str:
    """The page: per job its commands with what they printed; paths are those of the evening's folder."""
    titles = {
        "shop": shop,
        "things": things,
        "parquet": parquet,
        "two students": two_students,
        "closed laptop": closed_laptop,
    }
    parts = ["# A first evening\n", intro]
    for job, calls in evening.said.items():
        what = (titles[job].__doc__ or "").strip().partition(". `")[0]
        parts.append(f"\n## {what.rstrip('.')}\n")
        for line, printed in calls:
            shown = printed.replace(f"{evening.place}/", "").replace(evening.words[-1], "TEACHER").rstrip()
            typed = line.replace(evening.words[-1], "TEACHER")
            parts.append(f"```\n$ {typed}\n{shown}\n```\n")
    return "\n".join(parts)


def read_data(photos: Path, classes: Path, names: int, per_class: int, most: int) -> Data:
    """People's data out of sets at hand: their own training photos with one caption each, and some classes."""
    from reinforced_data.source import open_source

    source = open_source(str(photos), "train", most)
    captioned = [(sample.image, sample.captions[0].text) for sample in (source[i] for i in range(len(source)))]
    task = open_source(str(classes), "given").zero_shot()
    assert task is not None, f"{classes} has no classes"
    found: dict[str, list[bytes]] = {}
    for label, picture in zip(task.labels, task.images, strict=True):
        found.setdefault(re.sub(r"\W+", "_", task.class_names[label]), []).append(picture)
    step = max(1, len(found) // names)
    return Data(captioned, {name: found[name][:per_class] for name in [*found][::step][:names]})


def main(argv: list[str] | None = None) -> None:
    """Parse, run the jobs, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--recipe", default="photos")
    parser.add_argument("--other", default='--student "timm:tf_efficientnet_lite0@128+hf:bert-2x384x768"')
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True)
    words = ("--recipe", given.recipe, "--teacher", str(given.teacher.resolve()))
    evening = Evening(given.out.resolve(), read_data(given.photos, given.classes, 12, 15, 1500), words, Terminal())
    seconds = {}
    for job in (shop, things, parquet, lambda e: two_students(e, given.other), closed_laptop):
        start = time.monotonic()
        job(evening)
        seconds[[*evening.said][-1]] = round(time.monotonic() - start)
    took = ", ".join(f"{name} {value} s" for name, value in seconds.items())
    intro = (
        "Five jobs as a new user does them, with all that was printed (terminal of "
        f"{COLUMNS} columns; `TEACHER` is the folder of the sail teacher, see [photos](photos.md)), by `benchmarks/first_evening.py`. "
        "The photos are of Flickr8k's training part, which that teacher has learned from, and of Caltech-101; trainings are short (1,280 samples). "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, commit {git_commit()[:7]}, "
        f"{datetime.date.today()}: {took}.\n"
    )
    page = document(evening, intro)
    (given.docs or given.out / "first_evening.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

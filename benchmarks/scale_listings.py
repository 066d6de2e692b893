"""What opening data of many samples takes of a process, by kind of place: for `scale_simulation`.

Each place is made here, of small "images" of random bytes, and opened by three processes: one that lists it in memory, one that
lists it into the cache folder, and one that finds it there, as every other process does.
"""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

CAPTION = "a caption of some forty characters"


def images(rows: int) -> Iterator[tuple[str, bytes]]:
    """(key, bytes) of so many, keys as a web crawl's are named."""
    draws, block = np.random.default_rng(0), os.urandom(1 << 20)
    for row in range(rows):
        start, size = draws.integers(0, (1 << 20) - 2048), draws.integers(1024, 1536)
        yield f"{row // 10_000:05d}{row % 10_000:04d}", block[start : start + size]


def tars(folder: Path, rows: int) -> Path:
    """Tars of up to 10,000 images and their captions."""
    folder.mkdir()
    tar: tarfile.TarFile | None = None
    for row, (key, image) in enumerate(images(rows)):
        if row % 10_000 == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(folder / f"{row // 10_000:08d}.tar", "w")  # noqa: SIM115
        assert tar is not None
        for ending, data in (("jpg", image), ("txt", CAPTION.encode())):
            info = tarfile.TarInfo(f"{key}.{ending}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if tar is not None:
        tar.close()
    return folder


def files(folder: Path, rows: int) -> Path:
    """Images with captions beside them, 10,000 in a folder."""
    for key, image in images(rows):
        below = folder / key[:5]
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{key}.jpg").write_bytes(image[:64])
        (below / f"{key}.txt").write_text(CAPTION)
    return folder


def table(folder: Path, rows: int) -> Path:
    """A CSV of paths, two captions an image. The images are one file under many names, so that only the table is large."""
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"x")
    with open(folder / "all.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption"])
        for row in range(rows):
            for turn in range(2):
                writer.writerow([f"{'./' * (row % 5)}{row:09d}.jpg", f"{CAPTION} {turn}"])
    return folder / "all.csv"


def lines(folder: Path, rows: int) -> Path:
    """The same as JSON lines, one caption an image and one of a language model."""
    folder.mkdir()
    with open(folder / "all.jsonl", "w", encoding="utf-8") as stream:
        for row in range(rows):
            print(json.dumps({"image": f"{row:09d}.jpg", "caption": CAPTION, "rewrite": CAPTION}), file=stream)
    return folder / "all.jsonl"


def parquet(folder: Path, rows: int) -> Path:
    """Parquet files of up to 10,000 images and their captions, with keys of their own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    made = images(rows)
    for number in range(0, rows, 10_000):
        some = [next(made) for _ in range(min(10_000, rows - number))]
        columns = {
            "key": [key for key, _ in some],
            "image": [image for _, image in some],
            "caption": [CAPTION] * len(some),
        }
        pq.write_table(pa.table(columns), folder / f"{number // 10_000:05d}.parquet", row_group_size=1000)
    return folder


def saved(folder: Path, rows: int) -> Path:
    """The same as a set that `datasets` saved."""
    import datasets

    def made() -> Iterator[dict[str, object]]:
        for key, image in images(rows):
            yield {"key": key, "image": image, "caption": CAPTION}

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_generator(made, cache_dir=str(folder / "cache"))
    data.save_to_disk(str(folder / "saved"))
    return folder / "saved"


KINDS: dict[str, Callable[[Path, int], Path]] = {
    "tars": tars, "folder": files, "csv": table, "jsonl": lines, "parquet": parquet, "saved set": saved,
}  # fmt: skip

_OPENED = """
import sys, time
import reinforced_data.source, reinforced_data.sources.webdataset
import numpy, pyarrow.parquet
from reinforced_data.sources.parts.kept import shelf

def own():  # of this process alone: mapped pages can be dropped and are shared by all who map them
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

shelf.KEPT_FROM_BYTES = shelf.KEPT_FROM_ROWS = int(sys.argv[2])
few = reinforced_data.source.open_source(sys.argv[3], "train")  # so that what is imported is not counted
few.captions(0)
before, started = own(), time.perf_counter()
source = reinforced_data.source.open_source(sys.argv[1], "train")
opened = time.perf_counter() - started
used = own() - before
for place in range(1000):
    source.captions(place * len(source) // 1000)
print(len(source), opened, used, own() - before, peak())
"""


def listing_cost(kind: str, rows: int, folder: Path) -> dict[str, float]:
    """Seconds and memory of its own that a process takes to open a place of so many samples: listing it, or what was kept."""
    folder.mkdir(parents=True)
    place, few = KINDS[kind](folder / "many", rows), KINDS[kind](folder / "few", 20)
    environ = {**os.environ, "DISTILL_CACHE": str(folder / "cache")}

    def opened(kept_from: int) -> list[float]:
        call = [sys.executable, "-c", _OPENED, str(place), str(kept_from), str(few)]
        done = subprocess.run(call, capture_output=True, text=True, check=True, env=environ)
        return [float(word) for word in done.stdout.split()]

    in_memory, listed, again = opened(1 << 60), opened(1), opened(1)
    kept = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())
    found = {"rows": rows, "kept_bytes_per_row": kept / rows}
    for name, (_, seconds, used, after, peak) in {"in_memory": in_memory, "listed": listed, "again": again}.items():
        found |= {
            f"{name}_seconds": seconds,
            f"{name}_own_bytes_per_row": used / rows,
            f"{name}_own_bytes_per_row_read": after / rows,
            f"{name}_peak_bytes": peak,
        }
    return found
